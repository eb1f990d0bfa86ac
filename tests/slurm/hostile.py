# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding what works for a user on this cluster, and talking to a helper that is started by hand.

This machine sees the processes of every node, with ids of its own. Owns no attack.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.login import Login, until
from tests.slurm.processes import state, status

NOTHING = "0" * 16  # of a capability set in /proc/PID/status


def below(root: int) -> list[int]:
    """Return a process and all its descendants, by this machine's ids; of its threads too."""
    found = [root]
    for pid in found:
        with suppress(OSError):  # it may end meanwhile, or one of its threads
            for thread in os.listdir(f"/proc/{pid}/task"):
                with suppress(OSError):
                    text = Path(f"/proc/{pid}/task/{thread}/children").read_text()
                    found += [int(word) for word in text.split()]
    return found


def named(pids: list[int], name: str) -> list[int]:
    """Return those of the processes that run a program of that name."""
    return [pid for pid in pids if status(pid, "Name").strip() == name]


def words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def running(user: Login, module: str) -> list[int]:
    """Return the trusted helpers of a kind that work in the user's own directory or job."""
    uid = user.place.stat().st_uid
    found = {}
    for each in Path("/proc").iterdir():
        pid = int(each.name) if each.name.isdigit() else 0
        mine = pid and words(pid)[3:4] == [module] and in_cluster(user, each)
        if mine and status(pid, "Uid").split()[:1] == [str(uid)]:
            found[pid] = status(pid, "PPid")
    # A child of one has its command line until it executes its own.
    return [pid for pid, parent in found.items() if parent and int(parent) not in found]


def in_cluster(user: Login, process: Path) -> bool:
    """Tell whether a process is of this cluster: another checkout's may run beside it."""
    try:
        return os.path.samefile(process / "root/shared", user.cluster.shared)
    except OSError:
        return False


def pod(user: Login) -> int:
    """Wait for the user's one pod; return its PID 1."""
    return int(until("the pod", lambda: running(user, "pycr.pod")[:1])[0])


def restored(first: int, name: str) -> list[int]:
    """Return what a pod's task runs by a name, when criu has let it go."""
    pids = below(first)
    return [] if named(pids, "criu") else [pid for pid in named(pids, name) if state(pid) == "S"]


def all_of(user: Login) -> list[int]:
    uid = str(user.place.stat().st_uid)
    pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]
    mine = [pid for pid in pids if status(pid, "Uid").split()[:1] == [uid]]
    return [pid for pid in mine if in_cluster(user, Path(f"/proc/{pid}"))]


def in_step(user: Login) -> list[int]:
    """Return what runs under this cluster's slurmstepds as anybody."""
    pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]
    return [pid for pid in pids if in_cluster(user, Path(f"/proc/{pid}"))]


def inside(pid: int) -> str:
    """Return a process's id as its node has it: the second, this machine's being the first."""
    return status(pid, "NSpid").split()[1]


# wait: seconds for a task that Slurm is just starting.
FIND = {"do": "find", "tasks": {"n0": [0]}, "wait": 30.0, "patience": 60}


def dump(directory: str) -> dict[str, object]:
    return {"do": "dump", "dir": directory, "keep": True, "timeout": 60, "hold": True}


def waiting_step(user: Login) -> str:
    """Start a step of one task on n0 that waits; return its name."""
    user.popen("srun", "-n1", "-w", "n0", "sleep", "120")
    return user.step()


class ByHand:
    """A helper that a user starts without pycr, and talks to."""

    def __init__(self, user: Login, job: str, target: str, *more: str) -> None:
        self.srun = user.popen(
            "srun",
            "--overlap",
            f"--jobid={job}",
            "-n1",
            "-N1",
            *more,
            f"--cr-helper={target}",
            "sh",
            "-c",
            "echo own command",
            stdin=subprocess.PIPE,
        )

    def say(self, *lines: object) -> tuple[int, str, str]:
        """Say lines to it, end its input, and return how it ended."""
        text = "".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines)
        out, err = self.srun.communicate(text, timeout=60)
        return self.srun.returncode, out, err

    def ask(self, line: object, event: str) -> None:
        """Say a line and wait for an event."""
        assert self.srun.stdin and self.srun.stdout
        self.srun.stdin.write(json.dumps(line) + "\n")
        self.srun.stdin.flush()
        for each in self.srun.stdout:
            if f'"event":"{event}"' in each or '"event":"error"' in each:
                assert f'"event":"{event}"' in each, each
                return
        raise AssertionError(f"no {event}: {self.srun.communicate()}")
