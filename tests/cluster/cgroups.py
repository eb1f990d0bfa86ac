# SPDX-License-Identifier: GPL-2.0-or-later
"""The control groups of the nodes: which the machine has, making a node's own, removing them.

Owns: everything under <controller>/pycr-<cluster id>/. Each node gets one group per controller
and sees it as the root of its cgroup namespace, so that the groups of Slurm on two nodes, or in
two checkouts, never meet.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from .state import State, wait_until

# What Slurm's cgroup/v1 plugin may use; it fails to start when one is not mounted.
WANTED = ("cpuset", "freezer", "memory", "devices", "cpuacct", "cpu")


@dataclass(frozen=True)
class Hierarchy:
    """One cgroup v1 mount: where it is, and its controllers (more than one: cpu,cpuacct)."""

    path: Path
    controllers: tuple[str, ...]
    every_controller: tuple[str, ...]


def hierarchies() -> list[Hierarchy]:
    """Return the machine's cgroup v1 mounts that Slurm uses."""
    # The mount's options hold others than controllers too (rw, xattr).
    known = {line.split()[0] for line in Path("/proc/cgroups").read_text().splitlines()[1:]}
    found: dict[tuple[str, ...], Hierarchy] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fstype, _, options = right.split()
        if fstype == "cgroup":
            every = tuple(name for name in options.split(",") if name in known)
            names = tuple(name for name in every if name in WANTED)
            if names:
                found.setdefault(names, Hierarchy(Path(left.split()[4]), names, every))
    return list(found.values())


def usable() -> tuple[bool, str]:
    """Tell whether nodes can have cgroup v1 groups, and why."""
    have = {name for hierarchy in hierarchies() for name in hierarchy.controllers}
    missing = [name for name in WANTED if name not in have]
    if missing:
        return False, f"this machine does not mount the cgroup v1 controllers {' '.join(missing)}"
    for hierarchy in hierarchies():
        if not os.access(hierarchy.path, os.W_OK):
            return False, f"{hierarchy.path} is read-only"
    return True, "this machine mounts the cgroup v1 controllers"


def _group(hierarchy: Hierarchy, state: State, name: str) -> Path:
    return hierarchy.path / f"pycr-{state.id}" / name


def make(state: State, name: str) -> list[Path]:
    """Make node NAME's groups and return them."""
    groups = []
    for hierarchy in hierarchies():
        group = _group(hierarchy, state, name)
        for path in (group.parent, group):
            path.mkdir(exist_ok=True)
            if "cpuset" in hierarchy.controllers:
                # A new cpuset is empty and takes no task, see cpuset(7).
                for setting in ("cpuset.cpus", "cpuset.mems"):
                    (path / setting).write_text((path.parent / setting).read_text())
        groups.append(group)
    return groups


def enter(groups: list[Path]) -> None:
    """Move this process into GROUPS."""
    for group in groups:
        (group / "cgroup.procs").write_text(str(os.getpid()))


def remove(state: State, name: str = "") -> None:
    """Remove node NAME's groups, or all of the cluster's; their processes are dead."""

    def gone() -> bool:
        left = False
        for hierarchy in hierarchies():
            top = _group(hierarchy, state, name)
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    Path(directory).rmdir()
            left = left or top.exists()
        return not left

    # A group stays busy until the kernel has let go of its last process.
    wait_until("the cluster's control groups to empty", gone, 30)
