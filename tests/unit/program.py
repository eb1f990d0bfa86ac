# SPDX-License-Identifier: GPL-2.0-or-later
"""A program of a test's own, running beside the test, which reads what it says line by line."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEADLINE = 20.0  # seconds that anything here may take


class Program:
    """Python code in a process of its own."""

    def __init__(self, code: str, *words: str, **more: Any) -> None:
        """Start it. words: its arguments; more: for Popen."""
        more.setdefault("stdout", subprocess.PIPE)
        more.setdefault("env", {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]})
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdin=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            **more,
        )
        self.pid = self.process.pid
        self.rest = b""
        self.out = self.process.stdout.fileno() if self.process.stdout else -1

    def line(self, deadline: float = DEADLINE) -> str:
        """Return the next line that it says; fail where none comes, or it has ended."""
        give_up = time.monotonic() + deadline
        while b"\n" not in self.rest:
            left = max(0.0, give_up - time.monotonic())
            assert select.select([self.out], [], [], left)[0], f"no line: {self.rest!r}"
            data = os.read(self.out, 65536)
            assert data, f"it has ended: {self.rest!r}"
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode()

    def lines(self, count: int) -> list[str]:
        """Return the next lines that it says."""
        return [self.line() for _ in range(count)]

    def silent(self, seconds: float) -> bool:
        """Tell whether it says nothing for so long."""
        return not self.rest and not select.select([self.out], [], [], seconds)[0]

    def tell(self, text: str) -> None:
        """Give it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())

    def kill(self) -> None:
        """End it, and what it has started, at once and for good."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        self.process.wait()
