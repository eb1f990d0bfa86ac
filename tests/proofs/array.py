# SPDX-License-Identifier: GPL-2.0-or-later
"""An array of twenty tasks of one CPU each on a partition whose jobs are preempted: three times a
whole node of them is, one node twice; each task leaves what it leaves where nobody comes between.

An array's scripts are not checkpointed, its steps are, one by one: each task has a keeper for its
step. In its next life a script begins anew, and its step goes on: so the script appends what its
step says, and makes nothing twice.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.login import Login, until
from tests.victims.scripted import ENDED

from .job import Job, journal, record, seldom

TASKS = 20
ROUNDS, SECONDS = 300, 0.2
SCRIPT = f"""#!/bin/bash
#SBATCH --array=1-{TASKS} --ntasks=1 --cpus-per-task=1 --open-mode=append --time=60
mkdir -p task.$SLURM_ARRAY_TASK_ID
cd task.$SLURM_ARRAY_TASK_ID
srun --cr ../proof.py 1 {ROUNDS} {SECONDS} >> out
echo "$SLURM_ARRAY_TASK_ID ended with $?"
"""
PREEMPTED = ("n2", "n3", "n2")
KEPT = ("--cr", "--cr-before-end", "--requeue", "-p", "spare", "--exclude=n0")
LOG = "task.%a.log"


def run(alice: Login, out: Path) -> str:
    whole = Job(alice, "unbroken", SCRIPT, "-o", LOG, "-w", "n0", victims=("proof.py",))
    job = Job(alice, "array", SCRIPT, "-o", LOG, *KEPT, victims=("proof.py",))
    whole.start()
    job.start()
    until("all to work", lambda: len(working(job)) == TASKS, 120)
    for node in PREEMPTED:
        preempt(job, node)
    ended(job)
    ended(whole)
    ids = {row["ArrayTaskId"]: row["JobId"] for row in tasks(job)}
    lives = []
    kept = 0.0
    for task, job_id in sorted(ids.items(), key=lambda each: int(each[0])):
        events = journal(alice, job_id)
        notes = [each["text"] for each in events if each["event"] == "note"]
        lives.append(1 + sum(each["event"] == "restored" for each in events))
        if lives[-1] > 1:
            place = out / f"task.{task}"
            place.mkdir()
            totals = record(alice, job_id, place)
            assert totals["lives"] == lives[-1], (task, totals, notes)
            kept += totals["frozen"]
    (out / "lives").write_text(json.dumps(lives))
    found, wanted = tree(job), tree(whole)
    odd = [name for name in {*found, *wanted} if found.get(name) != wanted.get(name)]
    assert not odd, f"not as unbroken: {sorted(odd)}; lives {lives}"
    assert len(wanted) == TASKS * 3, sorted(wanted)
    assert {row["ExitCode"] for row in tasks(job)} == {"0:0"}
    assert lives.count(1) < TASKS // 2 and max(lives) > 2, lives  # the node may be another by then
    counts = ", ".join(f"{lives.count(number)} in {number}" for number in sorted({*lives}))
    return f"{TASKS} tasks, by lives: {counts}; frozen {kept:.1f} s in all"


def tasks(job: Job) -> list[dict[str, str]]:
    """Return what Slurm says of each task of the array."""
    text = job.login.run("scontrol", "-o", "show", "job", job.job_id).stdout
    rows = [dict(word.split("=", 1) for word in line.split() if "=" in word)
            for line in text.splitlines()]  # fmt: skip
    return [row for row in rows if row["ArrayTaskId"].isdigit()]


def working(job: Job) -> list[Path]:
    """Return the files of the tasks that have written some of their own."""
    return [path for path in job.login.place.glob("task.*/file.0") if path.stat().st_size]


def preempt(job: Job, node: str) -> None:
    """Have another job take a whole node, and wait until all that it has thrown out go on."""
    there = {row["JobId"]: row for row in tasks(job)
             if row["JobState"] == "RUNNING" and row["NodeList"] == node}  # fmt: skip
    assert there, f"nothing runs on {node}: {tasks(job)}"
    words = ["-p", "urgent", "-w", node, "-N1", "-n8", "-o", "/dev/null", "--wrap", "true"]
    done = job.login.run("sbatch", "--wait", *words, timeout=180)
    assert done.returncode == 0, done.stderr

    def again() -> bool:
        now = {row["JobId"]: row for row in tasks(job)}
        return all(
            now[job_id]["JobState"] == "RUNNING" and now[job_id]["Restarts"] != row["Restarts"]
            for job_id, row in there.items()
        )

    until(f"those of {node} to run again", again, 120)
    until("their steps to go on", lambda: len(restored(job, there)) == len(there), 120)


def restored(job: Job, there: dict[str, dict[str, str]]) -> list[str]:
    """Return which of some tasks have gone on since."""
    return [
        job_id
        for job_id, row in there.items()
        if sum(each["event"] == "restored" for each in journal(job.login, job_id))
        > int(row["Restarts"])
    ]


def ended(job: Job) -> None:
    """Wait for the end of all tasks."""

    def over() -> bool:
        rows = tasks(job)
        return len(rows) == TASKS and {row["JobState"] for row in rows} <= ENDED

    until(f"the end of array {job.job_id}", seldom(over), 600)


def tree(job: Job) -> dict[str, str]:
    """Return the files that the tasks have left; of their output what Slurm does not say."""
    place = job.login.place
    found = {str(path.relative_to(place)): path.read_text() for path in place.glob("task.*/*")}
    for path in place.glob("task.*.log"):
        lines = path.read_text().splitlines(keepends=True)
        own = (line for line in lines if not line.startswith(("srun: ", "slurmstepd-")))
        found[path.name] = "".join(own)
    return found
