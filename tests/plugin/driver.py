# SPDX-License-Identifier: GPL-2.0-or-later
"""Drive host.c: write its script, read what the plugin did.

Leaves the building of host and plugin to conftest.py and what is expected to the tests.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

DEADLINE = 30.0  # seconds that anything here may take
# Nobody's uid: the user whose tasks the host starts; for each pytest-xdist worker another one, as
# what they leave in /tmp is looked for.
USER = 12345 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
STEP = [
    "context remote",
    "item job 7",
    "item step 3",
    "item tasks 8",
    "item global 5",
    "item task 1",
    "jobenv SLURMD_NODENAME=n1",
]
# Signals 32 and 33 in SigIgn: glibc lets nobody set them, so they stay as this session found them.
GLIBCS = 1 << 31 | 1 << 32
CAP_SETPCAP, CAP_SYS_PTRACE, CAP_CHECKPOINT_RESTORE = 1 << 8, 1 << 19, 1 << 40
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapAmb")
OPTION_VARIABLE = "SLURM_SPANK__SLURM_SPANK_OPTION_spank_cr_"


@dataclass
class Run:
    """What one host printed, a line each, and how it ended."""

    lines: list[str]
    returncode: int
    pid: int = 0

    def all(self, word: str) -> list[str]:
        """Return the rest of each line that starts with word."""
        return [line[len(word) + 1 :] for line in self.lines if line.startswith(f"{word} ")]

    def one(self, word: str) -> str:
        found = self.all(word)
        assert len(found) == 1, f"{len(found)} lines of {word!r} in {self.lines}"
        return found[0]

    @property
    def errors(self) -> list[str]:
        return self.all("error:")

    @property
    def status(self) -> int:
        """The task's wait status, as waitpid(2) gives it."""
        return int(self.one("status"))

    @property
    def capabilities(self) -> dict[str, int]:
        """What a task held when slurmstepd would have executed the user's command."""
        return {name: int(self.one(f"{name}:"), 16) for name in CAPABILITIES}

    @property
    def helper(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.one("helper"))
        return report

    def refused(self) -> str:
        """Return the one line with which the plugin ended srun, before any allocation."""
        assert self.returncode == 1, self.lines
        assert "done" not in self.lines
        assert len(self.errors) == 1, self.lines
        return self.errors[0]


@dataclass
class Running:
    """A host whose output is read while it runs."""

    process: subprocess.Popen[bytes]
    lines: list[str] = field(default_factory=list)
    rest: bytes = b""

    def until(self, word: str) -> str:
        """Read on to the next line that starts with word, and return the rest of it."""
        assert self.process.stdout is not None
        end = time.monotonic() + DEADLINE
        seen = len(self.lines)
        while True:
            for line in self.lines[seen:]:
                seen += 1
                if line.startswith(f"{word} "):
                    # What was read beyond it is for the next call.
                    ahead = self.lines[seen:]
                    del self.lines[seen:]
                    self.rest = "".join(f"{each}\n" for each in ahead).encode() + self.rest
                    return line[len(word) + 1 :]
            left = end - time.monotonic()
            ready, _, _ = select.select([self.process.stdout], [], [], 0 if self.rest else left)
            got = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not got and b"\n" not in self.rest:
                pytest.fail(f"no line {word!r} came: {self.lines}")
            *whole, self.rest = (self.rest + got).split(b"\n")
            self.lines += [os.fsdecode(each) for each in whole]

    def end(self) -> int:
        """Wait for the host, which has waited for its task; return the task's wait status."""
        status = int(self.until("status"))
        assert self.process.wait(DEADLINE) == 0
        return status


@dataclass
class Host:
    """The host program with the plugin it loads, and the files around them."""

    program: Path
    plugin: Path
    reports: Path  # where sanitizers write

    def run(
        self,
        script: Sequence[str],
        name: str = "srun",
        args: Sequence[str] = (),
        env: dict[str, str] | None = None,
        timeout: float = DEADLINE,
        terminal: bool = False,
    ) -> Run:
        """Do a script's lines in a host that runs under this name, and with srun's args.

        With a terminal it is in the foreground of one of its own, and reads its script there.
        """
        process, end = self._start(script, name, args, env, terminal)
        try:
            out, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            out = kill(process)
            pytest.fail(f"the host hangs after {os.fsdecode(out)}")
        finally:
            os.close(end)
        run = Run(os.fsdecode(out).splitlines(), process.returncode, process.pid)
        assert not run.all("host:"), run.lines
        self.check()
        return run

    @contextmanager
    def running(self, script: Sequence[str]) -> Iterator[Running]:
        """Do a script's lines while the caller watches; whatever is left then is killed."""
        process, end = self._start(script, "srun", (), None)
        try:
            yield Running(process)
        finally:
            kill(process)
            os.close(end)
        self.check()

    def _start(
        self,
        script: Sequence[str],
        name: str,
        args: Sequence[str],
        env: dict[str, str] | None,
        terminal: bool = False,
    ) -> tuple[subprocess.Popen[bytes], int]:
        """Start a host; return it and the other end of its stdin, for the caller to close."""
        text = "".join(f"{line}\n" for line in script).encode("utf-8", "surrogateescape")
        end, stdin = os.openpty() if terminal else os.pipe()[::-1]
        # All of it is there before the host starts: no script is longer than a pipe or a terminal
        # holds.
        os.write(end, text)
        if terminal:
            os.write(end, b"\x04")
        else:
            os.close(end)
            end = os.dup(stdin)
        tty = os.ttyname(stdin) if terminal else ""
        try:
            process = subprocess.Popen(
                [name, str(self.plugin), *args],
                executable=self.program,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={} if env is None else env,
                start_new_session=True,
                # The leader of a session that has no terminal gets the first one that it opens.
                preexec_fn=(lambda: os.close(os.open(tty, os.O_RDWR))) if terminal else None,
            )
        finally:
            os.close(stdin)
        return process, end

    def check(self) -> None:
        """Fail when a sanitizer has found something, in the host or in a task."""
        found = sorted(self.reports.iterdir())
        text = "\n".join(each.read_text(encoding="utf-8", errors="replace") for each in found)
        for each in found:
            each.unlink()
        if found:
            pytest.fail(f"sanitizer report:\n{text}")


def kill(process: subprocess.Popen[bytes]) -> bytes:
    """End a host and what it started, all in its process group; return what was not read yet."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.communicate(timeout=DEADLINE)[0]


def proc_status(pid: int) -> dict[str, str]:
    """Return /proc/PID/status, a value for each key."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def ended(pidfd: int) -> bool:
    """Tell whether the process ends before the deadline."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(DEADLINE * 1000))


def capabilities(status: dict[str, str]) -> dict[str, int]:
    """Return the sets of a /proc/PID/status, but for the bounding set."""
    return {name: int(status[name], 16) for name in CAPABILITIES}
