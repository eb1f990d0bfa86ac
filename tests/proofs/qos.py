# SPDX-License-Identifier: GPL-2.0-or-later
"""Preempted by a job with a higher QOS (PreemptType=preempt/qos, GraceTime of the QOS), three times
with PreemptMode=REQUEUE, twice with CANCEL; beside them a node dies twice under two jobs. With
slurmdbd: what `pycr report` says of the lives is the same when slurmctld has forgotten the job, and
the node's failures are those by which --checkpoint=auto chooses, each counted once.

The partition says PreemptMode=OFF, which is nothing to preempt/qos. There is no periodic checkpoint
of the preempted ones: every one is made in the grace time.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tests.login import Login, until
from tests.victims.scripted import ENDED

from .job import Job, record, same, seldom, spell
from .preempted import OPTIONS, SCRIPT, preempt

CLUSTER = {"accounting": True}
TIMES = {"spare": 3, "spare-cancel": 2}
SAID = {"spare": "PREEMPTED", "spare-cancel": "REQUEUED"}  # by sacct, of a life that was preempted
NODES = {"spare": "n1", "spare-cancel": "n2"}
DEAD, DEATHS = "n3", 2
PATIENCE = 600.0  # seconds
FORGET = 150.0  # seconds: slurmctld looks each minute for jobs older than MinJobAge
CHOSEN = re.compile(r"every (.*): one stops .* will run (.*) between failures \((\d+) ")
FORGETFUL = "sed -i s/^MinJobAge=.*/MinJobAge=2/ /etc/slurm/slurm.conf && scontrol reconfigure"


def run(alice: Login, out: Path) -> str:
    whole = Job(alice, "unbroken", SCRIPT, *OPTIONS, "-w", "n0", victims=("proof.py",))
    whole.start()
    with ThreadPoolExecutor(1 + len(TIMES)) as pool:
        wanted = pool.submit(whole.over, PATIENCE)
        pairs = [pool.submit(broken, alice, qos, out) for qos in TIMES]
        auto, jobs = killed(alice, out)
        jobs = [*(each.result() for each in pairs), *jobs]
        for job, _ in jobs:
            same(job.over(PATIENCE), wanted.result())
    assert wanted.result().status == "0:0", wanted.result()
    words = [*(text for _, text in jobs), auto]
    return "; ".join([*words, forgotten(alice, [whole, *(job for job, _ in jobs)], out)])


def broken(alice: Login, qos: str, out: Path) -> tuple[Job, str]:
    """Run a job and preempt it, at other places of its work each time; return its figures."""
    node, times = NODES[qos], TIMES[qos]
    own = ("--cr", "--requeue", "-q", qos, "-w", node)
    job = Job(alice, qos, SCRIPT, *OPTIONS, *own, victims=("proof.py",))
    job.start()
    job.life(0)
    preempt(job, node, times, "-q", "urgent")
    job.over(PATIENCE)
    ended = job.state()["JobState"]
    totals = keep(job, out)
    assert totals["lives"] == times + 1 and totals["lost"] == 0, totals
    assert totals["checkpoints"] == times and totals["failed"] == 0, totals
    states = sacct(job, "State")
    assert states == [SAID[qos]] * times + [ended], states
    return job, f"{qos}: {spell(totals)}, sacct: {' '.join(states)}"


def killed(alice: Login, out: Path) -> tuple[str, list[tuple[Job, str]]]:
    """Have two jobs' node die, twice; return by what the interval was chosen before and after, and
    the jobs. These have not got the same nodes: it is one failure each time nevertheless.
    """
    words = ("--cr", "--requeue", "--checkpoint=auto")
    jobs = [
        Job(alice, name, SCRIPT, *nodes, *OPTIONS[1:], *words, victims=("proof.py",))
        for name, nodes in (("one", ("-N1", "-w", DEAD)), ("two", ("-N2", "-w", f"n0,{DEAD}")))
    ]
    for job in jobs:
        job.start()
    for death in range(1, DEATHS + 1):
        for job in jobs:
            job.life(death - 1)
            done = job.login.pycr("create", job.job_id)
            assert done.returncode == 0, done.stderr
        alice.cluster.kill_node(DEAD)
        try:
            for job in jobs:
                until(f"NODE_FAIL {death}", seldom(partial(failed, job, death)), PATIENCE)
        finally:
            alice.cluster.start_node(DEAD)
    found = []
    for job in jobs:
        job.over(PATIENCE)
        totals = keep(job, out)
        assert totals["lives"] == DEATHS + 1 and totals["checkpoints"] >= DEATHS, totals
        states = sacct(job, "State")
        assert states == ["NODE_FAIL"] * DEATHS + [job.state()["JobState"]], states
        text = f"{job.login.place.name}: {spell(totals)}, sacct: {' '.join(states)}"
        found.append((job, text))
    made = chosen(jobs[0])
    numbers = [int(failures) for _, _, failures in made]
    assert numbers == [numbers[0] + death for death in range(DEATHS + 1)], made
    steps = ", then ".join(f"with {number} seen {mtbf}" for _, mtbf, number in made)
    return f"auto, mean time between failures: {steps}", found


def failed(job: Job, times: int) -> bool:
    """Tell whether sacct says so many times that the node's failure has ended a job."""
    return sacct(job, "State,FailedNode").count(f"NODE_FAIL|{DEAD}") == times


def chosen(job: Job) -> list[tuple[str, ...]]:
    """Return what the chooser said as each life began: interval, mean time, failures seen."""
    notes = [each for each in job.journal("note") if "of accounting" in each["text"]]
    lives = [each["since"] for each in job.journal("life")]
    found = []
    for since in sorted(set(lives), key=float):
        first = next(each for each in notes if each["time"] >= float(since))
        match = CHOSEN.search(first["text"])
        assert match, first
        found.append(match.groups())
    return found


def sacct(job: Job, names: str) -> list[str]:
    """Return a line of sacct's of each life of a job."""
    words = ("-n", "-P", "-X", "-D", "-j", job.job_id, "-o", names)
    done = job.login.run("sacct", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def keep(job: Job, out: Path) -> dict[str, float]:
    """Keep a job's report and journal; return the report's totals."""
    place = out / job.login.place.name
    place.mkdir()
    return record(job.login, job.job_id, place)


def lives(job: Job) -> list[dict[str, Any]]:
    """Return the lives in a job's report."""
    found: list[dict[str, Any]] = job.login.pycr_json("report", job.job_id)["lives"]
    return found


def forgotten(alice: Login, jobs: list[Job], out: Path) -> str:
    """Have slurmctld forget the jobs: the reports of all are what they were."""
    assert all(job.state()["JobState"] in ENDED for job in jobs)
    before = [lives(job) for job in jobs]
    alice.cluster.node("n0").run(["sh", "-c", FORGETFUL], check=True)

    def gone() -> bool:
        said = [job.login.run("scontrol", "show", "job", job.job_id).stderr for job in jobs]
        return all("Invalid job id" in each for each in said)

    until("slurmctld to forget the jobs", seldom(gone), FORGET)
    after = [lives(job) for job in jobs]
    (out / "forgotten.json").write_text(json.dumps(after, indent=1))
    for job, one, other in zip(jobs, before, after):
        assert one == other, f"{job.login.place.name}: {one}, when forgotten {other}"
    return f"{sum(map(len, after))} lives are the same by sacct alone"
