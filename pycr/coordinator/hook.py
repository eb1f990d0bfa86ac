# SPDX-License-Identifier: GPL-2.0-or-later
"""The site's program that runs after each checkpoint command: after_checkpoint in plugstack.conf.

    PROGRAM JOB STEP ERROR DIR

As Slurm ran sbin/scch: STEP is a number, that of a batch script 4294967294; ERROR is 0, or the
failure's error_code; DIR is where the images are: of a failure, the step's directory, in which
there may be none. It runs as the user, in a process group of its own, with nothing but PATH, HOME,
USER, LOGNAME, LC_ALL and SLURM_CONF in its environment, its streams on /dev/null, and for LONGEST
seconds at most. Nothing that becomes of it changes what the command has done.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from pycr.coordinator import interrupt
from pycr.slurm import BATCH

LONGEST = 60.0
OLD_BATCH = 0xFFFFFFFE  # SLURM_BATCH_SCRIPT, up to Slurm 20.02


def environment() -> dict[str, str]:
    """Return what the program finds in its environment."""
    found = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
    with suppress(KeyError):
        entry = pwd.getpwuid(os.getuid())
        found.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
    if "SLURM_CONF" in os.environ:
        found["SLURM_CONF"] = os.environ["SLURM_CONF"]
    return found


def run(program: str, job_id: int, step_id: int, error: int, directory: Path) -> str:
    """Run it to its end; return what went wrong with it, "" where nothing did."""
    step = OLD_BATCH if step_id == BATCH else step_id
    try:
        process = subprocess.Popen(
            [program, str(job_id), str(step), str(error), str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
            cwd="/",
            start_new_session=True,
        )
    except OSError as failure:
        return f"{program}: {failure.strerror}"
    try:
        with interrupt.heard():
            status = process.wait(LONGEST)
    except subprocess.TimeoutExpired:
        _end(process)
        return f"{program}: not done after {LONGEST:.0f} s: killed"
    except KeyboardInterrupt:
        _end(process)
        return f"{program}: interrupted"
    if status < 0:
        return f"{program}: ended by signal {-status}"
    return f"{program}: exit status {status}" if status else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the program and what it has started in its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
