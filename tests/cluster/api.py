# SPDX-License-Identifier: GPL-2.0-or-later
"""The cluster as tests see it: bring it up, run things on its nodes, break it, take it down.

Owns: the order in which the other modules do their part, and undoing it when one fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Union

from . import accounting, cgroups, install, layers, node, rootfs, slurmconf
from .state import CHECKOUT, ClusterError, State, say, wait_until

MAX_NODES = 8
START_TIMEOUT = 120  # seconds
Stream = Union[int, IO[Any], None]


class Node:
    """One node of a running cluster."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _argv(
        self, command: Sequence[str], user: str | None, env: Mapping[str, str] | None
    ) -> list[str]:
        argv = [sys.executable, "-m", "tests.cluster", "sh", self.name]
        argv += ["--user", user] if user else []
        settings = [f"{key}={value}" for key, value in (env or {}).items()]
        return [*argv, "--", *(["env", *settings] if settings else []), *command]

    def run(
        self,
        command: Sequence[str],
        user: str | None = None,
        input: str | None = None,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run COMMAND to its end and return its status and output, as subprocess.run does.

        timeout: seconds, after which the command is killed. env: added to a login's.
        """
        return subprocess.run(
            self._argv(command, user, env),
            cwd=CHECKOUT,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=check,
        )

    def popen(
        self,
        command: Sequence[str],
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.PIPE,
        stderr: Stream = subprocess.PIPE,
        own_group: bool = False,
    ) -> subprocess.Popen[str]:
        """Start COMMAND; signals sent to the result reach it.

        own_group: in a process group of its own, below this one: the kernel lets no process of an
        orphaned group stop by SIGTSTP.
        """
        return subprocess.Popen(
            self._argv(command, user, env),
            cwd=CHECKOUT,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            preexec_fn=os.setpgrp if own_group else None,
        )


class Cluster:
    """The checkout's cluster; get one from Cluster.up()."""

    def __init__(self) -> None:
        self.state = State()

    @classmethod
    def up(
        cls,
        nodes: int = 2,
        release: str = "trixie",
        rootfs: str | Path | None = None,
        accounting: bool = False,
    ) -> Cluster:
        """Return a cluster of these parameters and the sources as they are, all nodes idle.

        A running one is used when it fits, else it is taken down first. accounting: with slurmdbd,
        and preemption by QOS in place of partitions.
        """
        if not 1 <= nodes <= MAX_NODES:
            raise ClusterError(f"1 to {MAX_NODES} nodes, not {nodes}")
        if os.geteuid() != 0:
            raise ClusterError("making namespaces and mounts needs root")
        cluster = cls()
        with cluster.state.locked():
            cluster._up(nodes, release, str(rootfs) if rootfs else None, accounting)
        return cluster

    @classmethod
    def is_up(cls) -> bool:
        """Tell whether this checkout has a cluster running."""
        return (cls().state.load() or {}).get("status") == "up"

    def _up(self, nodes: int, release: str, given: str | None, accounts: bool) -> None:
        root = rootfs.prepare(release, given)
        layer = install.layer_name(root)
        plugins = slurmconf.choose_plugins(root)
        names = [f"n{i}" for i in range(nodes)]
        record = {
            "status": "starting",
            "checkout": str(CHECKOUT),
            "nodes": names,
            "rootfs": root.label,
            "pycr": layer,
            "plugins": plugins.as_dict(),
            "accounting": accounts,
        }
        old = self.state.load()
        if old is not None:
            same = all(old.get(key) == record[key] for key in record if key != "status")
            if same and old["status"] == "up" and self._healthy(names):
                return
        # Before the old one goes: sources that do not build leave a running cluster alone.
        path = install.prepare(root, layer)
        added = [accounting.prepare(root)] if accounts else []
        self._clean()
        try:
            record["layers"] = [str(item) for item in (path, *added, *root.layers)]
            self._make_state(record)
            install.forget_old(root)
            slurmconf.write(self.state, names, plugins, accounts)
            self._start([node.SWITCH])
            self._start(names)
            self._wait_idle(names)
            if accounts:
                accounting.populate(self.node("n0"))
            self._note_versions(record)
        except BaseException:
            self._clean()
            raise

    def _make_state(self, record: dict[str, Any]) -> None:
        self.state.dir.mkdir(mode=0o755, parents=True)
        self.state.save(record)
        self.state.shared.mkdir()
        self.state.shared.chmod(0o1777)
        home = self.state.shared / "home"
        home.mkdir()
        home.chmod(0o755)
        for user, uid in slurmconf.USERS.items():
            (home / user).mkdir(mode=0o700)
            os.chown(home / user, uid, uid)

    def _start(self, names: list[str]) -> None:
        started = [(name, node.begin(self.state, name)) for name in names]
        for name, process in started:
            node.finish(self.state, name, process)

    def _node_states(self) -> list[str]:
        try:
            done = self.node("n0").run(["sinfo", "-h", "-p", "debug", "-N", "-o", "%T"], timeout=30)
        except subprocess.TimeoutExpired:  # slurmctld is not up yet
            return []
        return done.stdout.split() if done.returncode == 0 else []

    def _wait_idle(self, names: list[str]) -> None:
        def idle() -> bool:
            for name in names:
                if self.state.pid(name) is None:
                    raise ClusterError(f"{name} died while starting")
            return self._node_states() == ["idle"] * len(names)

        try:
            wait_until("all nodes to be idle", idle, START_TIMEOUT)
        except ClusterError as error:
            tails = "\n".join(node.log_tail(self.state, name, 15) for name in names)
            raise ClusterError(f"{error}\n{tails}") from error

    def _healthy(self, names: list[str]) -> bool:
        alive = all(self.state.pid(name) for name in (node.SWITCH, *names))
        bad = ("down", "drain", "fail", "unk", "*")
        states = self._node_states() if alive else []
        return bool(states) and not any(word in state for state in states for word in bad)

    def _note_versions(self, record: dict[str, Any]) -> None:
        script = "slurmd -V; criu --version | head -n1; uname -r"
        lines = self.node("n0").run(["sh", "-c", script]).stdout.splitlines()
        words = [line.split()[-1] for line in lines] + ["?"] * 3
        record["versions"] = dict(zip(("slurm", "criu", "kernel"), words))
        record["status"] = "up"
        self.state.save(record)

    def down(self) -> None:
        """Leave nothing of the cluster; fine when there is none."""
        if self.state.base.exists() or self.state.processes():
            with self.state.locked():
                self._clean()

    def _clean(self) -> None:
        self.state.kill_all()
        cgroups.remove(self.state)
        self.state.remove()
        layers.sweep()

    def node(self, name: str) -> Node:
        """Return node NAME."""
        return Node(name)

    @property
    def shared(self) -> Path:
        """The host's path of what the nodes see as /shared."""
        return self.state.shared

    def logs(self) -> dict[str, str]:
        """Return the tail of each daemon's log, by its path below the log directory."""
        top = self.state.dir / "log"
        return {
            str(path.relative_to(top)): path.read_text(errors="replace")[-8192:]
            for path in sorted(top.glob("**/*"))
            if path.is_file()
        }

    def kill_node(self, name: str) -> None:
        """Crash node NAME: its processes die and its network is gone, its disk remains."""
        node.crash(self.state, name)

    def start_node(self, name: str) -> None:
        """Start node NAME again after kill_node, and wait until Slurm has it back."""
        record = self.state.load()
        if record is None or name not in record["nodes"]:
            raise ClusterError(f"the cluster has no node {name}")
        if self.state.pid(name) is not None:
            return
        cgroups.remove(self.state, name)
        self._start([name])

        def back() -> bool:
            index = record["nodes"].index(name)
            states = self._node_states()
            return len(states) > index and states[index] in ("idle", "mixed", "allocated")

        wait_until(f"{name} to be back in Slurm", back, START_TIMEOUT)

    def status(self) -> dict[str, Any]:
        """Return what is known of the cluster, for people and for --json."""
        record = self.state.load()
        if record is None:
            return {"status": "down", "checkout": str(CHECKOUT)}
        record["pids"] = {name: self.state.pid(name) for name in record["nodes"]}
        record["state_dir"] = str(self.state.dir)
        record["shared"] = str(self.shared)
        record["logs"] = str(self.state.dir / "log")
        if not all(record["pids"].values()):
            record["status"] = "broken" if record["status"] == "up" else record["status"]
        return record


__all__ = ["MAX_NODES", "Cluster", "ClusterError", "Node", "say"]
