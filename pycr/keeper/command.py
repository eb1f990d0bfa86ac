# SPDX-License-Identifier: GPL-2.0-or-later
"""One `pycr create`, `vacate` or `requeue` of a keeper's, as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

from pycr.slurm import commands

PREFIX = "pycr: "


class Command:
    """It, and what came of it. began, took: in seconds, monotonic."""

    def __init__(self, verb: str, name: str, max_wait: float, keep: int = 0) -> None:
        """Start it. Raises OSError.

        max_wait: seconds that it may take, 0: as long as it likes.
        """
        self.verb, self.name = verb, name
        words = [sys.executable, "-I", "-m", "pycr.cli", verb, name, "--json"]
        if max_wait:
            words.append(f"--max-wait={max(1, int(max_wait))}")
        if keep and verb == "create":
            words.append(f"--keep={keep}")
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self.began = time.monotonic()
        self.took = 0.0
        try:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                env=commands.environment(for_reading=False),
                start_new_session=True,
                restore_signals=True,
            )
        except OSError:
            self._said.close()
            raise
        self.descriptor = os.pidfd_open(self.process.pid)

    def over(self) -> bool:
        """Tell whether it has ended."""
        if self.process.poll() is None:
            return False
        if not self.took:
            self.took = time.monotonic() - self.began
        return True

    @property
    def status(self) -> int:
        """Its exit status."""
        return self.process.returncode

    def reason(self) -> str:
        """Return the last that it has said, which is why it failed."""
        self._said.seek(0)
        lines = [line for line in self._said.read().decode(errors="replace").splitlines() if line]
        text = lines[-1].strip() if lines else f"exit status {self.status}"
        return text[len(PREFIX) :] if text.startswith(PREFIX) else text

    def close(self) -> None:
        """Have done with it."""
        os.close(self.descriptor)
        self._said.close()
