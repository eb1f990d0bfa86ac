# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress on a terminal, for what takes longer than two seconds; silent elsewhere."""

from __future__ import annotations

import sys
import time

PATIENCE = 2.0


class Line:
    """One line on stderr that is rewritten in place, and wiped at the end."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._shown = ""
        self._tty = sys.stderr.isatty()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done of `what`."""
        waited = time.monotonic() - self._began
        if not self._tty or waited < PATIENCE:
            return
        text = f"pycr: {what}: {done} of {total} ({waited:.0f} s)"
        if text != self._shown:
            self._shown = text
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()

    def close(self) -> None:
        """Wipe the line."""
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
