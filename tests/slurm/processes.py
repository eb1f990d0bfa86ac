# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking at srun_cr and srun below a Login.popen(), by this machine's process ids."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.login import until


def children(pid: int) -> list[int]:
    """Return a process's children, by this machine's process ids."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def status(pid: int, name: str) -> str:
    """Return a field of /proc/PID/status, "" where there is no such process any more."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""
    lines = (line for line in text.splitlines() if line.startswith(f"{name}:"))
    return next(lines, ":\t").split(":\t")[1]


def wrapper(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Wait for srun_cr below a Login.popen() to be up with its srun; return both."""

    def probe() -> tuple[int, int] | None:
        for pid in children(process.pid):
            below = [child for child in children(pid) if status(child, "Name") == "srun"]
            # Until it is Python, and has its handlers, all signals are blocked.
            if below and not int(status(pid, "SigBlk") or "1", 16):
                return pid, below[0]
        return None

    found: tuple[int, int] = until("srun_cr and its srun", probe)
    return found


def state(pid: int) -> str:
    return status(pid, "State")[:1]


def go_on(process: subprocess.Popen[str]) -> None:
    """Continue what has stopped: `sh` stops as its command does, and continues it."""
    until("sh to stop", lambda: state(process.pid) == "T")
    process.send_signal(signal.SIGCONT)
