# SPDX-License-Identifier: GPL-2.0-or-later
"""A node that dies with no warning, its network and its power at once: all its jobs are requeued by
Slurm and go on by themselves, none with more lost than what was done since its last checkpoint.

Of two nodes each, with the script under --cr or the step alone; the first node, where script, srun
and keeper are, or the other. All at one moment, and so each at another of its intervals.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from pycr.keeper.plan import STARTUP
from tests.login import Login, until
from tests.proofs.counting import INTERVAL, TICK, Counting, wait_until
from tests.proofs.job import same

COUNT = 600
NODE = "n1"
FIRST = ("-N2", "--exclude=n0")  # it is the job's first node; else n0 is, which has slurmctld


def run(alice: Login, out: Path) -> str:
    """Kill a node of four jobs."""
    jobs: list[tuple[Counting, Counting, int]] = []
    for step in (False, True):
        kind = "step" if step else "script"
        alive = f"--exclude={NODE}"
        whole = Counting(alice, kind, COUNT, "-N2", alive, step=step, checkpoints=False)
        for name, options, task in (("first", FIRST, 0), ("other", ("-N2",), 1)):
            jobs.append(
                (Counting(alice, f"{kind}-{name}", COUNT, *options, step=step), whole, task)
            )
    for job, _, task in jobs:
        until(f"job {job.job_id} to run", partial(job.runs, 0), 60)
        assert (job.state()["BatchHost"] == NODE) is (task == 0), job.state()
        job.committed(2)
    wait_until(jobs[0][0].journal("began")[-1]["time"] + INTERVAL - 0.5)
    killed = time.time()
    alice.cluster.kill_node(NODE)
    try:
        for job, _, _ in jobs:
            job.life(1)
        back = time.time() - killed
    finally:
        alice.cluster.start_node(NODE)
    said = []
    for job, whole, task in jobs:
        same(job.over(90), whole.over(90))
        said.append(lost(job, task, killed, out))
    return f"all four go on {back:.0f} s after it; {'; '.join(said)}"


def lost(job: Counting, task: int, killed: float, out: Path) -> str:
    """See what a job has lost; keep its figures, and return them. task: that was on the node."""
    name = job.login.place.name
    before = [each for each in job.journal("committed") if each["time"] <= killed]
    restored = job.journal("restored")
    assert [each["path"] for each in restored] == [before[-1]["path"]], (restored, before)
    moment = before[-1]["time"] - before[-1]["seconds"]
    work = job.lost(task) * TICK
    most = INTERVAL + job.slowest() + STARTUP
    assert 0 < work <= most, f"{name}: {work:.1f} s lost, more than {most:.1f} s"
    assert work <= killed - moment + TICK, f"{name}: {work} s lost in {killed - moment} s"
    totals = job.keep(out, name)
    assert totals["lives"] == 2, totals
    # The report knows no more than Slurm: when that has noticed.
    assert totals["lost"] >= work, (name, work, totals)
    assert totals["unsaved"] == 0, (name, totals)
    return (
        f"{name}: {work:.1f} s of work lost, {killed - moment:.1f} s after the checkpoint, which"
        f" took {before[-1]['seconds']:.1f} s (by pycr report {totals['lost']:.1f} s)"
    )
