# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands that manage the cluster: up, status, down. `sh` is enter.py's."""

from __future__ import annotations

import argparse
import json
import signal

from .api import MAX_NODES, Cluster
from .rootfs import RELEASES


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.cluster", description="A disposable Slurm cluster on this machine."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="bring the cluster up, or make it what is asked for")
    up.add_argument("--nodes", type=int, default=2, metavar="N", help=f"1 to {MAX_NODES}")
    up.add_argument("--release", choices=RELEASES, default=RELEASES[0], help="Debian release")
    up.add_argument("--rootfs", metavar="DIR", help="use this root instead of building one")
    up.add_argument("--accounting", action="store_true", help="with slurmdbd, and QOS that preempt")
    verbs.add_parser("sh", help="run a command: sh NODE [--user NAME] -- COMMAND...")
    status = verbs.add_parser("status", help="what is running, and how")
    status.add_argument("--json", action="store_true")
    verbs.add_parser("down", help="take the cluster down and delete all of it")
    return parser


def main(arguments: list[str]) -> int:
    """Run the command in ARGUMENTS and return its exit status."""
    options = _parser().parse_args(arguments)
    if options.verb == "up":
        print(_line(Cluster.up(options.nodes, options.release, options.rootfs, options.accounting)))
    elif options.verb == "down":
        Cluster().down()
    else:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # status | head
        cluster = Cluster()
        print(json.dumps(cluster.status(), indent=1) if options.json else _report(cluster))
    return 0


def _line(cluster: Cluster) -> str:
    record = cluster.status()
    if record["status"] == "down":
        return f"down ({record['checkout']})"
    versions = record.get("versions", {})
    accounts = ", slurmdbd" if record.get("accounting") else ""
    return (
        f"{record['status']}: {len(record['nodes'])} nodes ({record['rootfs']}, "
        f"Slurm {versions.get('slurm', '?')}, CRIU {versions.get('criu', '?')}, "
        f"kernel {versions.get('kernel', '?')}, {record['plugins']['proctrack']}{accounts}), "
        f"state in {record['state_dir']}"
    )


def _report(cluster: Cluster) -> str:
    record = cluster.status()
    lines = [_line(cluster)]
    if record["status"] != "down":
        plugins = record["plugins"]
        chosen = ", ".join(plugins[key] for key in ("proctrack", "task", "jobacct"))
        nodes = ", ".join(f"{name} (pid {pid})" for name, pid in record["pids"].items())
        lines += [
            f"  nodes    {nodes}",
            f"  plugins  {chosen}; CgroupPlugin={plugins['cgroup']}: {plugins['why']}",
            f"  rootfs   {record['rootfs']}",
            f"  layers   {' '.join(record.get('layers', []))}",
            f"  shared   {record['shared']}",
            f"  logs     {record['logs']}",
        ]
    return "\n".join(lines)
