# SPDX-License-Identifier: GPL-2.0-or-later
"""The processes of the cluster's nodes as this machine sees them, and which of them is what.

A process is on a node if it is in that node's UTS namespace: pods have PID and mount namespaces of
their own, but not that one.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.cluster.slurmconf import USERS
from tests.cluster.state import State

YOUNG = 0.3  # seconds in which a new process may become another program


class Process(NamedTuple):
    """One process; `words` is its command line."""

    pid: int
    node: str
    comm: str
    words: tuple[str, ...]
    uid: int

    @property
    def users(self) -> bool:
        """Whether it runs as one of the cluster's users."""
        return self.uid in USERS.values()

    def __str__(self) -> str:
        return f"{self.comm} {self.pid} on {self.node} ({' '.join(self.words)[:60]})"


def step_of(process: Process) -> str:
    """Return which step a slurmstepd is for, as "[12.0]" without the brackets, or ""."""
    line = " ".join(process.words)
    return line.partition("[")[2].partition("]")[0] if line.startswith("slurmstepd:") else ""


def _coordinator(process: Process) -> bool:
    verbs = {"create", "vacate", "requeue"}
    return (
        process.users
        and any(word.endswith("/pycr") or word == "pycr.cli" for word in process.words[:5])
        and bool(verbs & set(process.words))
        and process.words[0] != "env"
    )


def _helper_srun(process: Process) -> bool:
    return process.comm == "srun" and any(w.startswith("--cr-helper=") for w in process.words)


def _srun(process: Process) -> bool:
    return process.comm == "srun" and process.users and not _helper_srun(process)


# What is what. Of one program there may be several processes: one a node, or a child of one.
KINDS: dict[str, Callable[[Process], bool]] = {
    "coordinator": _coordinator,
    "helper": lambda p: "pycr.node" in p.words[:5],
    "criu": lambda p: p.comm == "criu" and "swrk" in p.words,
    "helper srun": _helper_srun,
    "srun": _srun,
    "srun_cr": lambda p: p.users and any(w.endswith(("/srun_cr", ".srun_cr")) for w in p.words[:5]),
    "pod": lambda p: "pycr.pod" in p.words[:5],
    "pod's parent": lambda p: p.comm == "pycr-pod",
    "slurmd": lambda p: p.comm == "slurmd" and p.words[0].endswith("slurmd"),
    "slurmctld": lambda p: p.comm == "slurmctld",
    "slurmstepd": lambda p: bool(step_of(p)),
}


class Processes:
    """The processes of a cluster."""

    def __init__(self, state: State) -> None:
        self.state = state

    def pid(self, node: str) -> int:
        """Return a node's PID 1, 0 where it is down."""
        return self.state.pid(node) or 0

    def _namespaces(self) -> dict[str, str]:
        record = self.state.load() or {"nodes": []}
        found = {}
        for node in record["nodes"]:
            with suppress(OSError):
                found[os.readlink(f"/proc/{self.pid(node)}/ns/uts")] = node
        return found

    def all(self) -> list[Process]:
        """Return every process there is on a node, but for its PID 1, and zombies."""
        nodes = self._namespaces()
        inits = {self.pid(node) for node in nodes.values()}
        found = (look(pid, nodes) for pid in sorted(set(_pids()) - inits))
        return [process for process in found if process is not None]

    def find(self, kind: str) -> list[Process]:
        """Return the processes of a kind."""
        return [process for process in self.all() if KINDS[kind](process)]

    def step_daemons(self, step: str) -> list[Process]:
        """Return the slurmstepd processes of a step, JOB.STEP or JOB.batch."""
        return [process for process in self.all() if step_of(process) == step]

    def await_kind(self, kind: str, go_on: Callable[[], bool]) -> list[Process]:
        """Wait for processes of a kind to appear, as long as go_on() says so.

        A criu lives for 20 ms: only what is new, and may still execute another program, is looked
        at more than once.
        """
        nodes = self._namespaces()
        seen: dict[int, float] = {}
        while True:
            now = time.monotonic()
            for pid in _pids():
                if seen.setdefault(pid, now) > now - YOUNG:
                    process = look(pid, nodes)
                    if process is not None and KINDS[kind](process):
                        return [process]
            if not go_on():
                return []


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def look(pid: int, nodes: dict[str, str]) -> Process | None:
    """Return a process that is on one of the nodes (UTS namespace -> name); None for others."""
    entry = Path("/proc", str(pid))
    try:
        node = nodes.get(os.readlink(f"/proc/{pid}/ns/uts"))
        if node is None or state(pid) in "ZX":
            return None
        data = (entry / "cmdline").read_bytes()
        words = tuple(os.fsdecode(word) for word in data.rstrip(b"\0").split(b"\0"))
        comm = (entry / "comm").read_text().strip()
        return Process(pid, node, comm, words, entry.stat().st_uid)
    except OSError:
        return None


def without_children(processes: list[Process]) -> list[Process]:
    """Return those that are no other's child: srun has one to clean up after it."""
    pids = {process.pid for process in processes}
    return [process for process in processes if int(_stat(process.pid)[1]) not in pids]


def _stat(pid: int) -> list[str]:
    """Return what proc(5) has of a process behind its name: state, parent, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["X", "0"]


def state(pid: int) -> str:
    """Return a process's state as proc(5) has it, "X" where there is none."""
    return _stat(pid)[0]


def kill(processes: list[Process], number: signal.Signals) -> list[Process]:
    """Send a signal to processes; return those that were still there."""
    hit = []
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
            hit.append(process)
    return hit
