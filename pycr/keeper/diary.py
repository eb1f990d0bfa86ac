# SPDX-License-Identifier: GPL-2.0-or-later
"""What a keeper finds in its job's journal and writes there; its user is told a note too."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pycr import errors, journal
from pycr.coordinator import record
from pycr.errors import PycrError
from pycr.journal import Journal
from pycr.slurm import Job, commands


class Diary:
    """A journal that cannot be read has nothing in it; that it cannot be written stops nobody."""

    def __init__(self, target: str, kept: Journal | None) -> None:
        """target: "4711.0" or "4711.batch", whose keeper writes."""
        self.target, self.journal = target, kept
        self.said: dict[str, str] = {}
        self.ended = False

    def events(self) -> list[journal.Event]:
        with suppress(PycrError):
            return self.journal.events() if self.journal is not None else []
        return []

    def past(self) -> list[journal.Event]:
        """Return what it has of checkpoints of the target that were made, of all its lives."""
        found = [each for each in self.events() if each["event"] == "committed"]
        numbers = [each for each in found if type(each.get("seconds")) in (int, float)]
        return [each for each in numbers if self.target in each.get("steps", [])]

    def generation(self) -> Path | None:
        """Return the newest generation that was made, where it is there still."""
        last = journal.state(self.events(), self.target).last
        path = str(last.get("path", "")) if last is not None else ""
        return Path(path) if path and os.path.isdir(path) else None

    def lives(self, generation: Path) -> int:
        """Return how many lives of the job have gone on from a generation."""
        real = os.path.realpath(generation)
        count = 0
        for each in self.events():
            with suppress(ValueError):  # no path
                if each["event"] == "restored":
                    count += os.path.realpath(str(each.get("path"))) == real
        return count

    def vacated(self, since: float) -> bool:
        """Tell whether the target was checkpointed to be ended, since a time of the epoch."""
        last = journal.state(self.events(), self.target).last
        return last is not None and bool(last.get("vacate")) and last["time"] >= since

    def others(self, job: Job) -> set[str]:
        """Return the job's other steps that have a keeper and run still."""
        kept: set[str] = set()
        for event in self.events():
            name = str(event.get("step"))
            if event["event"] == "life" and event.get("since") == record.since(job):
                kept.add(name)
            elif event["event"] == "ended":
                kept.discard(name)
        kept.discard(self.target)
        with suppress(PycrError):
            return kept & {each.name for each in commands.steps(job)} if kept else kept
        return kept

    def write(self, event: str, **values: object) -> None:
        with suppress(PycrError):
            if self.journal is not None:
                self.journal.append(event, step=self.target, **values)

    def note(self, text: str, about: str = "") -> None:
        """Tell the user; about: not again while it is the same about this."""
        if about and self.said.get(about) == text:
            return
        self.said[about] = text
        self.write("note", text=text)
        with suppress(OSError):
            os.write(2, f"pycr: {errors.printable(text)}\n".encode(errors="replace"))

    def end(self, why: str) -> None:
        """Write down, once, that the keeper does no more."""
        if not self.ended:
            self.ended = True
            self.write("ended", why=why)
