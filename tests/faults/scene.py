# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fault has before it: the cluster, the victim, the checkpoint that is under way; and how to
put right again what it has broken."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.faults.processes import Process, Processes, kill
from tests.faults.victims import Victim

Undo = Callable[[], object]


class Scene:
    """One round's."""

    def __init__(self, cluster: Any, victim: Victim, dice: random.Random) -> None:
        self.cluster, self.victim, self.dice = cluster, victim, dice
        self.processes = Processes(cluster.state)
        self.pycr: subprocess.Popen[str] | None = None
        self.images = victim.images
        self.second: subprocess.Popen[str] | None = None
        self.max_wait = 0
        self.notes: list[str] = []
        self._undo: list[Undo] = []
        self._last: list[Undo] = []

    def under_way(self) -> bool:
        """Tell whether the checkpoint is."""
        return self.pycr is None or self.pycr.poll() is None

    def root(self, node: str, *command: str, check: bool = True) -> str:
        """Run something on a node as root; return what it says."""
        done = self.cluster.node(node).run(list(command), check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} on {node}: {done.stderr}")
        return str(done.stdout)

    def user(self, *command: str) -> str:
        """Run something as the victim's user; return what it says."""
        return self.victim.login.run(*command).stdout

    def later(self, undo: Undo) -> None:
        """Have something done when the checkpoint has ended, last come first."""
        self._undo.append(undo)

    def put_right(self) -> None:
        """Do all of that."""
        while self._undo:
            self._undo.pop()()

    def finally_(self, undo: Undo) -> None:
        """Have something done when all of the round is over, last come first."""
        self._last.append(undo)

    def clear_up(self) -> None:
        """Do that too."""
        self.put_right()
        while self._last:
            self._last.pop()()

    def note(self, text: str) -> None:
        """Have something in the round's line."""
        self.notes.append(text)

    def strike(self, found: list[Process], number: signal.Signals) -> str:
        """Send one of the processes a signal; say which it was, "" where none was there."""
        hit = kill([self.dice.choice(found)], number) if found else []
        return f"{signal.Signals(number).name} to {hit[0]}" if hit else ""

    def host(self, node: str, path: str) -> Path:
        """Return a path of a node as this machine sees it."""
        return Path(f"/proc/{self.processes.pid(node)}/root{path}")

    def wait(self, seconds: float) -> None:
        """Let time pass until the moment of the fault; that is what a moment is."""
        with suppress(subprocess.TimeoutExpired):
            if self.pycr is None:
                time.sleep(seconds)
            else:
                self.pycr.wait(seconds)
