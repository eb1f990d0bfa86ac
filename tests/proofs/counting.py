# SPDX-License-Identifier: GPL-2.0-or-later
"""A job that counts, checkpointed every few seconds; and what of its work each start has repeated.

What a restart cuts off a job's output is what was done after the checkpoint: pycr keeps it, so the
work that was lost is read from the program's own numbers.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from pycr.journal import Event
from tests.login import Login, until
from tests.proofs.job import Job, record
from tests.victims.scripted import LOG, Left

INTERVAL = 5.0  # seconds
TICK = 0.05  # seconds that count.py sleeps between two numbers
TASKS = 2
SAID = re.compile(r"^(?:srun_cr|pycr): .*\n", re.MULTILINE)  # what was cut back: the user is told


class Counting(Job):
    """count.py in two tasks.

    Under --cr as a whole, or (step) by a srun in a script that begins anew when it is requeued.
    """

    def __init__(
        self,
        login: Login,
        name: str,
        count: int,
        *options: str,
        step: bool = False,
        checkpoints: bool = True,
    ) -> None:
        """step: it is the step that is checkpointed. checkpoints: none for an unbroken run."""
        every = [f"--checkpoint=0:{INTERVAL:02.0f}"] if checkpoints else []
        own = " ".join([*every, "-o out.%t", "--open-mode=append", "--cr-keep=9"])
        text = f"""#!/bin/bash
[ -e begun ] || echo begin; touch begun
srun -n{TASKS} --cr {own if step else ""} ./count.py {count}
echo over $?
"""
        words = [] if step else ["--cr", *every]
        words += ["--requeue", "--open-mode=append", f"-n{TASKS}", *options]
        super().__init__(login, name, text, *words, victims=("count.py",))
        self.count, self.step = count, step
        self.made |= {"begun"}
        self.start()

    def progress(self) -> int:
        return sum(len(self.login.read(name)) for name in (LOG, "out.0", "out.1"))

    @property
    def target(self) -> str:
        """What is checkpointed, as a step."""
        return f"{self.job_id}.{'0' if self.step else 'batch'}"

    def home(self) -> Path:
        """Return the directory of its generations."""
        shared: Path = self.login.cluster.shared
        return shared / "home" / self.login.user / "checkpoint" / self.target

    def committed(self, number: int, seconds: float = 60) -> list[Event]:
        """Wait for so many checkpoints in all its lives; return those made from time to time."""

        def look() -> list[Event]:
            found = self.journal("committed")
            return found if len(found) >= number else []

        made: list[Event] = until(f"checkpoint {number} of job {self.job_id}", look, seconds)
        return made

    def begun(self, number: int) -> None:
        """Wait until so many checkpoints have begun."""
        until(f"checkpoint {number} to begin", lambda: len(self.journal("began")) >= number)

    def went_on(self) -> None:
        """See that its second life went on from the newest there was. That may be in no journal
        yet, where the job was ended behind the commit."""
        events = self.journal("committed", "restored")
        at = [each["event"] for each in events].index("restored")
        newest, taken = (int(Path(each["path"]).name) for each in events[at - 1 : at + 1])
        assert newest <= taken <= newest + 1, events

    def waits(self) -> bool:
        """Tell whether it is in the queue."""
        return self.state()["JobState"] in ("PENDING", "REQUEUE_HOLD")

    def slowest(self) -> float:
        """Return how long the slowest checkpoint took, in seconds."""
        return max(float(each["seconds"]) for each in self.journal("committed"))

    def lost(self, task: int = 0) -> int:
        """Return how many numbers of a task's were cut off: they were counted again."""
        kept = [each for each in self.home().glob("cut-*/task.*@*") if each.is_file()]
        text = "".join(f"{each.read_text()}\n" for each in kept)
        return len(re.findall(rf"^{task} \d+$", text, re.MULTILINE))

    def left(self) -> Left:
        """Return what there is, each task's numbers together: their order is nobody's."""
        found = super().left()
        files = {name: SAID.sub("", text) for name, text in found.files.items()}
        log = SAID.sub("", found.log)
        if self.step:  # the script sees its node die, and begins anew: how it ends is what counts
            log = "".join(log.splitlines(keepends=True)[-1:])
        return found._replace(log=log, files=files).by_source()

    def keep(self, out: Path, name: str) -> dict[str, float]:
        """Keep its report and journal; return the report's totals."""
        place = out / name
        place.mkdir()
        return record(self.login, self.job_id, place)


def wait_until(moment: float) -> None:
    """Wait for a time of the epoch: a fault has its moment."""
    until("the moment", lambda: time.time() >= moment, 60)
