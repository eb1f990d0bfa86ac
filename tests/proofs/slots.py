# SPDX-License-Identifier: GPL-2.0-or-later
"""Ten time slots: a job of a minute's time limit whose work takes ten times that, and on the way a
node that is killed.

Its script runs steps in a loop, four tasks on two nodes each, through a pipe to a sort that has
read it all before it writes; so at each checkpoint there is a script, a step, a pipe and a file of
every task. PROOF_SHORT in the environment: a slot is cut to 25 s by `scontrol update EndTime=`,
and there is less than a third of the work.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.login import Login, until

from .job import Job, record, same, seldom, spell

SHORT = bool(os.environ.get("PROOF_SHORT"))
SLOTS = 10
TURNS = 4
SECONDS = 0.2  # of a round
ROUNDS = 150 if SHORT else 560  # of a turn
CUT = 25  # seconds that are left to a life
SCRIPT = f"""#!/bin/bash
total=0
for turn in {{1..{TURNS}}}; do
    rm -rf $turn; mkdir $turn; cd $turn
    srun --cr ../proof.py 4 {ROUNDS} {SECONDS} | sort -s -n -k1,1 > ../sorted.$turn
    echo "turn $turn: ${{PIPESTATUS[*]}}"
    cd ..
    total=$((total + $(wc -l < sorted.$turn)))
    cat $turn/file.* | cksum
done
echo "$total lines"
"""
OPTIONS = ("-N2", "-n4", "--exclude=n0", "--cr", "--requeue", "--checkpoint=0:15")
LIMIT = ("-p", "spare", "-t60") if SHORT else ("-t1",)
PATIENCE = 1200.0  # seconds
KILLED = 4  # the life in which a node is


def run(alice: Login, out: Path) -> str:
    whole = Job(alice, "unbroken", SCRIPT, "-n4", "-w", "n0", "-t60", victims=("proof.py",))
    job = Job(alice, "slots", SCRIPT, *OPTIONS, *LIMIT, victims=("proof.py",))
    whole.start()
    job.start()
    root = alice.cluster.node("n0")
    with ThreadPoolExecutor(1) as pool:
        wanted = pool.submit(whole.over, PATIENCE)
        life = 0
        next_life(job, life)
        while True:
            if SHORT and life != KILLED:
                words = ["scontrol", "update", f"JobId={job.job_id}", f"EndTime=now+{CUT}"]
                root.run(words, check=True)
            if life == KILLED:
                kill_a_node(job)
            life += 1
            if not next_life(job, life):
                break
        found = job.over(60)
        totals = record(alice, job.job_id, out)
        same(found, wanted.result())
    assert found.status == "0:0", found
    assert found.log.endswith(f"{TURNS * 4 * (ROUNDS + 1)} lines\n"), found.log
    assert SHORT or totals["lives"] >= SLOTS, totals
    return spell(totals)


def next_life(job: Job, life: int) -> bool:
    """Wait for a life to go on; tell whether there is one, or the job has come to its end."""

    def look() -> str:
        state = job.state()
        if (state["JobState"], state["Restarts"]) == ("RUNNING", str(life)):
            return "runs"
        return "over" if state["JobState"] in ("COMPLETED", "FAILED", "TIMEOUT") else ""

    return bool(until(f"life {life} of job {job.job_id}", seldom(look), 240) == "runs")


def kill_a_node(job: Job) -> None:
    """Cut the power of the job's second node, some time after a checkpoint; bring it back once the
    job has left it."""
    made = len(job.journal("committed"))
    until("a checkpoint in this life", lambda: len(job.journal("committed")) > made, 60)
    before = job.progress()
    until("work after it", lambda: job.progress() > before + 2000, 60)
    hosts = job.login.run("scontrol", "show", "hostnames", job.state()["NodeList"]).stdout.split()
    node = hosts[1]
    job.login.cluster.kill_node(node)
    try:
        until("the job to leave the node", lambda: job.state()["JobState"] != "RUNNING", 120)
    finally:
        job.login.cluster.start_node(node)
