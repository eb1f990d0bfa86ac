# SPDX-License-Identifier: GPL-2.0-or-later
"""slurmctld stopped and started again: between two checkpoints, during one, over the time of one, and
while the job waits in the queue after a requeue. The keeper goes on, at its times, and nothing is
missing in the output. Of a whole script, and of a step.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.faults.processes import Processes, kill
from tests.login import Login, until
from tests.proofs.counting import INTERVAL, Counting, wait_until
from tests.proofs.job import same

COUNT = 1100
DOWN = 2.0  # seconds
LATE = 2.5  # seconds that a checkpoint may begin behind its time: pycr's start, on a busy machine


class Control:
    """slurmctld of the cluster."""

    def __init__(self, login: Login) -> None:
        self.node = login.cluster.node("n0")
        self.processes = Processes(login.cluster.state)
        self.down: list[tuple[float, float]] = []  # from when until when

    def restart(self, seconds: float = DOWN) -> None:
        """Stop it, start it again so many seconds later, and wait until it answers."""
        began = time.time()
        kill(self.processes.find("slurmctld"), signal.SIGTERM)
        until("slurmctld to end", lambda: not self.processes.find("slurmctld"))
        wait_until(time.time() + seconds)
        command = "exec setsid /usr/sbin/slurmctld </dev/null >/dev/null 2>&1"
        self.node.run(["sh", "-c", command], check=True)
        until("slurmctld to answer", lambda: self.node.run(["scontrol", "ping"]).returncode == 0)
        self.down.append((began, time.time()))

    def was_down(self, start: float, end: float) -> bool:
        """Tell whether it was, at any time between these."""
        return any(start < until and since < end for since, until in self.down)


def run(alice: Login, out: Path) -> str:
    """Restart it four times under two jobs."""
    control = Control(alice)
    pairs = []
    for step in (False, True):
        kind = "step" if step else "script"
        whole = Counting(alice, f"{kind}-whole", COUNT, "-N2", step=step, checkpoints=False)
        pairs.append((Counting(alice, kind, COUNT, "-N2", step=step), whole))
    for job, _ in pairs:
        job.committed(1)
    control.restart()
    for job, _ in pairs:
        began = len(job.journal("began"))
        until("the next to begin", lambda job=job, n=began: len(job.journal("began")) > n)
        control.restart()
    job = pairs[0][0]
    wait_until(job.journal("began")[-1]["time"] + INTERVAL - 1)
    control.restart(INTERVAL)
    for job, _ in pairs:
        job.committed(len(job.journal("committed")) + 2)
        done = job.login.run("scontrol", "requeue", job.job_id)
        assert done.returncode == 0, done.stderr
    for job, _ in pairs:
        until("it to wait", lambda job=job: job.state()["JobState"] == "PENDING", 60)
    control.restart()
    said = []
    for job, whole in pairs:
        job.life(1)
        job.committed(len(job.journal("committed")) + 2)
        same(job.over(120), whole.over(120))
        newest = [each for each in job.journal("committed", "restored")]
        at = [each["event"] for each in newest].index("restored")
        assert newest[at]["path"] == newest[at - 1]["path"], newest
        name = job.login.place.name
        made, missed = in_time(job, control)
        totals = job.keep(out, name)
        assert totals["lives"] == 2 and totals["unsaved"] == 0, totals
        said.append(f"{name}: {made} checkpoints in time, {missed} while slurmctld was away")
    return "; ".join(said)


def in_time(job: Counting, control: Control) -> tuple[int, int]:
    """See that there was one at each due time, but where slurmctld was away; return how many were
    made, and how many were not for that."""
    events = job.journal("life", "began", "ended")
    made = missed = 0
    starts = [each["time"] for each in events if each["event"] == "life"]
    ends = [each["time"] for each in events if each["event"] == "ended"]
    assert len(starts) == len(ends) == 2, events
    for start, end in zip(starts, ends):
        began = [each["time"] for each in events if each["event"] == "began"]
        due = start + INTERVAL
        while due + LATE < end:
            if any(due - 0.5 <= each <= due + LATE for each in began):
                made += 1
            else:
                assert control.was_down(due - 0.5, due + LATE), (due, began, control.down)
                missed += 1
            due += INTERVAL
    return made, missed
