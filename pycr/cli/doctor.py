# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr doctor`: what this node lacks for pycr to work, each with its remedy.

It looks and changes nothing. It speaks of the node it runs on: `srun -w NODE pycr doctor` for
another.
"""

from __future__ import annotations

import json
import os
import platform
import pwd
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pycr import config, host
from pycr.cli import verb_parser
from pycr.engine import criu
from pycr.engine.trust import untrusted
from pycr.errors import DirectoryError, NotSupported, PycrError, SlurmError
from pycr.slurm import commands
from pycr.slurm.api import VARIABLE, choice


class Finding(NamedTuple):
    """One thing looked at. remedy is "" where nothing is wrong."""

    name: str
    found: str
    remedy: str = ""


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    arguments = parser.parse_args(argv)
    findings = list(look())
    if arguments.json:
        rows = [{**each._asdict(), "ok": not each.remedy} for each in findings]
        print(json.dumps({"node": socket.gethostname(), "findings": rows}, indent=1))
    else:
        width = max(len(each.name) for each in findings)
        for each in findings:
            mark = "LACKS" if each.remedy else "ok"
            print(f"{mark:<5}  {each.name:<{width}}  {each.found}")
            if each.remedy:
                print(f"{'':<5}  {'':<{width}}  -> {each.remedy}")
    return NotSupported.exit_status if any(each.remedy for each in findings) else 0


def look() -> Iterator[Finding]:
    """Look at everything, from Slurm to the image directory."""
    site = config.Site()
    try:
        yield Finding("Slurm", commands.version())
        yield asked_by()
        site = config.site()
    except SlurmError as error:
        yield Finding("Slurm", str(error), "make Slurm's commands work for you on this node")
    else:
        yield from plugin(site)
        yield from interpreter(site)
    yield kernel()
    yield capability()
    yield from engine(site)
    yield yama(site)
    yield namespaces()
    yield image_directory(site)


def asked_by() -> Finding:
    """Tell how Slurm is asked here, and try it."""
    try:
        made = choice()
        made.slurm.configuration()
    except PycrError as error:
        return Finding("asked by", str(error), f"unset {VARIABLE}: Slurm's commands then do")
    left = f"; its commands for {', '.join(made.given_up)}" if made.given_up else ""
    return Finding("asked by", f"{made.name} ({made.why}){left}")


def plugin(site: config.Site) -> Iterator[Finding]:
    """Look at the line in plugstack.conf and whether srun takes the plugin."""
    line = "optional /opt/pycr/lib/slurm/spank_cr.so"
    if site.plugin is None:
        yield Finding("plugin", f"none in {site.plugstack}", f"add to it: {line}")
        return
    if site.required:
        yield Finding(
            "plugin line", "required", "make it optional: a required plugin can drain nodes"
        )
    for word in site.faults:
        yield Finding("plugin line", f"{word}: not understood", "see spank_cr(8) for the keys")
    try:
        knows = "--cr-helper" in commands.run("srun", "--help")
    except SlurmError:
        knows = False
    if knows:
        yield Finding("plugin", site.plugin)
    elif not Path(site.plugin).exists():
        yield Finding("plugin", f"{site.plugin}: not there", "install pycr on this node")
    else:
        yield Finding(
            "plugin",
            f"{site.plugin}: srun does not load it",
            "build pycr against the headers of this node's Slurm, of the same major.minor",
        )


def interpreter(site: config.Site) -> Iterator[Finding]:
    """Look at the helper's interpreter as the plugin will: nobody but root may change it."""
    if not site.python:
        return
    path = site.python
    try:
        fault = untrusted(path)
    except OSError as error:
        yield Finding("interpreter", f"{path}: {error.strerror}", "set python= to an interpreter")
        return
    remedy = "make it and its directories root's, writable by root alone"
    if not fault:
        done = subprocess.run(
            [path, "-I", "-c", "import pycr; print(pycr.__file__)"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            yield Finding("interpreter", f"{path}: it has no pycr", "install pycr into its prefix")
            return
        # What it imports runs with the capability as well; the plugin looks at the program alone.
        fault = untrusted(done.stdout.strip(), executable=False)
    yield Finding("interpreter", fault or path, remedy if fault else "")


def kernel() -> Finding:
    """Look at the kernel's version."""
    found = platform.release()
    new = host.release(found) >= (5, 9)
    remedy = "" if new else "Linux 5.9 or later: CAP_CHECKPOINT_RESTORE came there"
    return Finding("kernel", found, remedy)


def capability() -> Finding:
    """Look whether a process here can have CAP_CHECKPOINT_RESTORE at all."""
    match = re.search(r"CapBnd:\s*([0-9a-f]+)", Path("/proc/self/status").read_text())
    held = match is not None and int(match.group(1), 16) >> host.CAP_CHECKPOINT_RESTORE & 1
    if held:
        return Finding("capability", "CAP_CHECKPOINT_RESTORE is in the bounding set")
    return Finding(
        "capability",
        "CAP_CHECKPOINT_RESTORE is not in the bounding set",
        "let slurmd keep it (CapabilityBoundingSet= of its unit)",
    )


def engine(site: config.Site) -> Iterator[Finding]:
    """Look at CRIU and whether it knows this kernel."""
    try:
        path = criu.find(site.criu)
        found = criu.version(path)
    except PycrError as error:
        yield Finding("CRIU", str(error), "install it, or set criu= (spank_cr(8))")
        return
    text = f"{host.dotted(found)} ({path})"
    remedy = host.old_criu(found, platform.release())
    yield Finding("CRIU", text, remedy)
    sockets = host.no_internet_sockets(found, platform.release())
    if not remedy and sockets:
        # No lack: all else works. It is said so that a failure there is no riddle.
        yield Finding("CRIU sockets", sockets)


def yama(site: config.Site) -> Finding:
    """Look at what yama lets a helper do."""
    if not Path(host.YAMA).exists():
        return Finding("yama", "not in this kernel")
    scope = host.ptrace_scope()
    return Finding("yama", f"ptrace_scope {scope}", host.yama(scope, site.ptrace))


def namespaces() -> Finding:
    """Look whether a restart can have namespaces of its own."""
    counts = []
    for kind in ("pid", "mnt"):
        try:
            counts.append(int(Path(f"/proc/sys/user/max_{kind}_namespaces").read_text()))
        except (OSError, ValueError):
            return Finding("namespaces", "not in this kernel", "a kernel with PID namespaces")
    remedy = "" if min(counts) > 0 else "raise user.max_pid_namespaces and max_mnt_namespaces"
    return Finding("namespaces", f"{min(counts)} allowed", remedy)


def image_directory(site: config.Site) -> Finding:
    """Look at the default image directory; it need not be there yet."""
    path = config.default_dir(site, 0)
    nearest = path
    while not os.path.exists(nearest):
        nearest = nearest.parent
    try:
        config.check_allowed(path, site)
    except DirectoryError as error:
        return Finding("images", str(error), "set checkpoint_dir= to a directory below these")
    try:
        config.check_directory(nearest)
    except DirectoryError as error:
        user = pwd.getpwuid(os.getuid()).pw_name
        return Finding("images", str(error), f"make it writable for {user}, or set checkpoint_dir=")
    return Finding("images", f"{path}{'' if nearest == path else ' (will be made)'}")
