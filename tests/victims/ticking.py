# SPDX-License-Identifier: GPL-2.0-or-later
"""How tests drive tick.py: one step of it over all its lives, and proof that none lost a line."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.login import Login, until


class Ticking:
    """tick.py in `tasks` tasks; `out` and `err` are what its lives wrote, one after the other."""

    def __init__(self, login: Login, tasks: int = 1, *arguments: str) -> None:
        self.login, self.tasks = login, tasks
        self.command = [login.victim("tick.py"), *arguments]
        self.out = self.err = ""
        self.step = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self, *options: str, cr: bool = True, **more: Any) -> None:
        """Begin its first life: srun --cr with options."""
        wrap = ["--cr"] if cr else []
        self.live("srun", *wrap, f"-n{self.tasks}", *options, *self.command, **more)

    def restart(self, *options: str, **more: Any) -> None:
        """Begin its next life, from its newest generation."""
        self.live("pycr", "restart", "--image-dir", ".", self.step, *options, **more)

    def live(self, *command: str, **more: Any) -> None:
        """Begin a life with any command; wait until every task ticks; learn the step's name."""
        before = set(self.login.steps())
        seen = self.beats()
        self.process = self.login.popen(*command, **more)
        until("every task to tick", lambda: self.ticked(seen) or self._ended())
        self.step = until(
            "the step", lambda: ([s for s in self.login.steps() if s not in before] or [""])[0]
        )

    def _ended(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"it ended: {self.process.communicate()}")
        return False

    def beats(self) -> list[int]:
        """Return how often each task has ticked, -1 where it never has."""
        return [
            path.stat().st_size if path.exists() else -1
            for path in (self.login.place / f"beat.{task}" for task in range(self.tasks))
        ]

    def ticked(self, seen: list[int]) -> bool:
        """Tell whether every task has ticked twice since it was seen."""
        return all(now > max(then, 0) + 1 for now, then in zip(self.beats(), seen))

    def goes_on(self) -> None:
        """Wait until every task has ticked."""
        seen = self.beats()
        until("every task to go on", lambda: self.ticked(seen))

    def create(self, *options: str) -> Path:
        """Checkpoint it; return the generation."""
        return self.checkpoint("create", *options)

    def vacate(self, *options: str) -> Path:
        """Checkpoint and end it; return the generation."""
        made = self.checkpoint("vacate", *options)
        self.end()
        return made

    def checkpoint(self, verb: str, *options: str) -> Path:
        """Checkpoint it by a verb of pycr's; return the generation."""
        done = self.login.pycr(verb, self.step, *(options or ("--image-dir", ".")))
        assert done.returncode == 0, done.stderr
        path = Path(done.stdout.split(": ")[0])
        return self.login.place / path.relative_to(self.login.dir)

    def end(self) -> int:
        """Wait for this life's end; return srun's status."""
        assert self.process is not None
        out, err = self.process.communicate(timeout=30)
        self.out += out or ""
        self.err += err or ""
        return self.process.returncode

    def stop(self) -> int:
        """Let it end; return srun's status."""
        (self.login.place / "stop").touch()
        return self.end()

    def cancel(self) -> int:
        """Have Slurm end it; return srun's status."""
        self.login.run("scancel", "-s", "KILL", self.step)
        return self.end()

    def whole(self) -> None:
        """See that no life repeated or lost a line."""
        gapless(self.out, self.tasks)
        gapless(self.err, self.tasks)

    def pauses(self) -> list[tuple[float, float]]:
        """Return each task's longest pause, in seconds, where all is over."""
        lines = [line.split() for line in self.out.splitlines() if line.startswith("pause ")]
        return [(float(start), float(end)) for _, _, start, end in lines]


def gapless(text: str, tasks: int) -> None:
    """See that every task's numbers are 0, 1, 2 and so on, in this order."""
    for task in range(tasks):
        lines = [line.split() for line in text.splitlines()]
        found = [int(line[1]) for line in lines if line[0] == str(task) and len(line) == 2]
        assert found, f"task {task} wrote nothing: {text[-500:]}"
        odd = [(at, number) for at, number in enumerate(found) if at != number]
        assert not odd, f"task {task}: line {odd[0][0]} is {odd[0][1]}"
