# SPDX-License-Identifier: GPL-2.0-or-later
"""Preempted six times by jobs of a higher partition, and put back into the queue each time; then
the same in a partition whose preempted jobs are cancelled, where the keeper requeues it.

There is no periodic checkpoint: every one is made in the grace time. After the third preemption
Slurm's MaxBatchRequeue leaves no other way back into the queue than `scontrol requeue`, for which
Slurm starts the job once more when it has ended (docs/walltime.md): that is a life more, and its
work is lost; what the job leaves is the same.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.login import Login
from tests.victims.scripted import Left

from .job import Job, record, same, spell

TIMES = {"spare": 6, "spare-cancel": 1}
PUT_BACK_BY_SLURM = 3  # with a MaxBatchRequeue of 5
PATIENCE = 900.0  # seconds
NODES = {"spare": "n0", "spare-cancel": "n1"}
TURNS = 2
ROUNDS, SECONDS = 500, 0.1  # of a turn
SCRIPT = f"""#!/bin/bash
for turn in {{1..{TURNS}}}; do
    rm -rf $turn; mkdir $turn; cd $turn
    srun --cr -n4 ../proof.py 4 {ROUNDS} {SECONDS} | sort -s -n -k1,1 > ../sorted.$turn
    echo "turn $turn: ${{PIPESTATUS[*]}}"
    cd ..
    cat $turn/file.* | cksum
done
"""
OPTIONS = ("-N1", "-n4", "-t60")


def run(alice: Login, out: Path) -> str:
    whole = Job(alice, "unbroken", SCRIPT, *OPTIONS, "-w", "n2", victims=("proof.py",))
    whole.start()
    with ThreadPoolExecutor(1 + len(TIMES)) as pool:
        wanted = pool.submit(whole.over, PATIENCE)
        jobs = [pool.submit(broken, alice, partition, out) for partition in TIMES]
        for each in jobs:
            same(each.result()[0], wanted.result())
    assert wanted.result().status == "0:0", wanted.result()
    return "; ".join(each.result()[1] for each in jobs)


def broken(alice: Login, partition: str, out: Path) -> tuple[Left, str]:
    """Run the job and preempt it, at other places of its work each time; return what it leaves, and
    its figures."""
    node = NODES[partition]
    words = ("--cr", "--requeue", "-p", partition, "-w", node)
    job = Job(alice, partition, SCRIPT, *OPTIONS, *words, victims=("proof.py",))
    job.start()
    job.life(0)
    preempt(job, node, TIMES[partition], "-p", "urgent")
    left, state = job.over(PATIENCE), job.state()["JobState"]
    (out / partition).mkdir()
    totals = record(alice, job.job_id, out / partition)
    extra = 1 if TIMES[partition] > PUT_BACK_BY_SLURM else 0
    assert totals["lives"] == TIMES[partition] + 1 + extra, totals
    assert (totals["lost"] > 0) == bool(extra), totals
    assert totals["checkpoints"] == TIMES[partition], totals
    return left, f"{partition}: {state}, {spell(totals)}"


def preempt(job: Job, node: str, times: int, *urgent: str) -> None:
    """Have other jobs take the whole of a job's node, so often, and see it begin its next life
    each time. urgent: what makes these jobs more important."""
    words = (*urgent, "-w", node, "-N1", "-n8", "-o", "/dev/null", "--wrap", "true")
    for life in range(1, times + 1):
        done = job.login.run("sbatch", "--wait", *words, timeout=180)
        assert done.returncode == 0, done.stderr
        job.life(life)
        notes = [each["text"] for each in job.journal("note")]
        assert sum("the job is preempted" in each for each in notes) == life, notes
