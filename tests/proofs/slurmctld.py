# SPDX-License-Identifier: GPL-2.0-or-later
"""slurmctld stopped and started again: between two checkpoints, during one, over the time of one,
and while the job waits in the queue after a requeue. The keeper goes on, at its times, and nothing
is missing in the output. Of a whole script, and of a step.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.faults.processes import Processes, kill
from tests.login import Login, until
from tests.proofs.counting import INTERVAL, Counting, wait_until
from tests.proofs.job import same

COUNT = 1300
DOWN = 2.0  # seconds
LATE = 4.0  # seconds that a checkpoint may begin behind its time: pycr's start, on a busy machine
BACK = 8.0  # seconds after its start in which slurmctld has not heard from all nodes


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
        job.begun(began + 1)
        control.restart()
    job = pairs[0][0]
    wait_until(job.journal("began")[-1]["time"] + INTERVAL - 1)
    control.restart(INTERVAL)
    for job, _ in pairs:
        job.committed(len(job.journal("committed")) + 2)
    for job, _ in pairs:
        done = job.login.run("scontrol", "requeue", job.job_id)
        assert done.returncode == 0, done.stderr
    until("both to wait", lambda: all(job.waits() for job, _ in pairs))
    control.restart()
    said = []
    for job, _ in pairs:
        job.life(1)
    for job, whole in pairs:
        same(job.over(120), whole.over(120))
        job.went_on()
        name = job.login.place.name
        made, late, missed = in_time(job, control)
        totals = job.keep(out, name)
        assert totals["lives"] == 2 and totals["unsaved"] == 0, totals
        said.append(
            f"{name}: {made} checkpoints in time; where slurmctld was away {late} later, {missed}"
            f" skipped, {totals['failed']:.0f} failed"
        )
    return "; ".join(said)


def in_time(job: Counting, control: Control) -> tuple[int, int, int]:
    """See that there was one at each due time, but where slurmctld was away; return how many there
    were in time, and for that: how many later, and how many were skipped."""
    events = job.journal("life", "began", "committed")
    made = late = missed = 0
    starts = [each["time"] for each in events if each["event"] == "life"]
    assert len(starts) == 2, events
    # A keeper that goes with its job may have no time to say so.
    ends = [max(each["time"] for each in events if each["time"] < starts[1]), events[-1]["time"]]
    began = [each["time"] for each in events if each["event"] == "began"]
    for start, end in zip(starts, ends):
        due = start + INTERVAL
        while due + LATE < end:
            after = next((each - due for each in began if each >= due - 0.5), INTERVAL)
            if after <= LATE:
                made += 1
            else:
                assert control.was_down(due - BACK, due + LATE), (due, began, control.down)
                late, missed = late + (after < INTERVAL), missed + (after >= INTERVAL)
            due += INTERVAL
    assert missed <= len(control.down), (began, control.down)
    return made, late, missed
