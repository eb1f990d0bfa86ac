# SPDX-License-Identifier: GPL-2.0-or-later
"""When a keeper has a checkpoint made, and why: its arithmetic."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from pycr.keeper import ask, failures, plan
from pycr.slurm import Job, preemption
from pycr.srun_cr.keeper import wanted

YEAR = 365 * 86400.0


def test_ticks_do_not_drift() -> None:
    """Each checkpoint takes 7 s of an interval of 30; the hundredth is on time."""
    now = 1000.0
    for k in range(1, 101):
        now = plan.next_tick(1000.0, 30.0, now) + 7.0
        assert now == 1000.0 + 30.0 * k + 7.0


def test_missed_ticks_are_skipped() -> None:
    assert plan.next_tick(0.0, 10.0, 35.0) == 40.0
    assert plan.next_tick(0.0, 10.0, 30.0) == 40.0  # the tick of that moment is being done
    assert plan.missed(0.0, 10.0, 10.0, 15.0) == 0
    assert plan.missed(0.0, 10.0, 10.2, 35.0) == 2


def test_what_fails_is_made_again_soon() -> None:
    """Not an interval later; but a checkpoint that always fails is not begun all the time."""
    hour, now, failures, begun = 3600.0, 3600.0, 0, []
    while now < 3 * hour:
        failures += 1
        now = plan.tick_after(0.0, hour, now, failures)
        begun.append(now - hour)
    assert begun[:3] == [plan.SOONER, 3 * plan.SOONER, 7 * plan.SOONER]
    assert hour in begun and len(begun) < 12
    assert plan.tick_after(0.0, 5.0, 6.0, 1) == 10.0
    assert plan.tick_after(0.0, hour, now, 0) == 4 * hour


def test_margin_follows_what_was_measured() -> None:
    day = 86400.0
    quick = plan.margin(plan.expected([1.0, 2.0], 15.0), day)
    slow = plan.margin(plan.expected([1.0, 600.0], 15.0), day)
    assert quick < 90 < slow
    assert slow > 2 * 600, "a checkpoint that fails at its end can be made again"
    # One that was slow long ago does not count for ever.
    assert plan.expected([600.0] + [2.0] * plan.LATELY, 15.0) < 10
    assert plan.expected([], 15.0) > 15


def test_margin_leaves_half_of_a_life_to_the_work() -> None:
    assert plan.margin(17.0, 60.0) == 30.0
    assert plan.margin(4.0, 60.0) == 18.0
    assert plan.margin(17.0, 60.0, wanted=600.0) == 30.0
    assert plan.margin(17.0, 86400.0, wanted=600.0) == 600.0
    assert plan.margin(17.0, 86400.0, wanted=600.0, ahead=180.0) == 780.0
    assert plan.margin(2.0, math.inf) < 90


def test_looks_at_the_job() -> None:
    assert plan.poll_in(0.0, math.inf, 0.0) == plan.POLL
    assert plan.poll_in(0.0, math.inf, 30.0) == 5.0
    assert plan.poll_in(0.0, math.inf, 3600.0) == plan.POLL
    assert plan.poll_in(0.0, 20.0, 0.0) == 10.0
    assert plan.poll_in(0.0, -5.0, 0.0) == plan.SOONEST


def test_retries() -> None:
    assert [plan.retry_in(attempt, 60.0) for attempt in range(1, 6)] == [1, 2, 4, 8, 15]
    assert plan.retry_in(5, 2.0) == 1
    assert plan.retry_in(99, math.inf) == 1 << 16
    assert plan.worth_trying(60.0, 20.0)
    assert not plan.worth_trying(5.0, 20.0)


@pytest.mark.parametrize(
    ("cost", "mtbf", "found"),
    [
        (1.0, 86400.0, 415.36),  # Young: 415.7
        (60.0, 86400.0, 3180.0),  # Young: 3220
        (600.0, 3600.0, 1690.5),  # Young: 2078
        (8000.0, 3600.0, 3600.0),
    ],
)
def test_daly(cost: float, mtbf: float, found: float) -> None:
    assert plan.daly(cost, mtbf) == pytest.approx(found, rel=0.01)


def test_daly_is_the_best_there_is() -> None:
    """By Daly's own model of the whole time, no interval about it is better by a thousandth."""
    cost, mtbf = 60.0, 20000.0

    def whole(interval: float) -> float:
        return mtbf * (math.exp((interval + cost) / mtbf) - 1) / interval

    chosen = whole(plan.daly(cost, mtbf))
    assert chosen <= min(whole(interval) for interval in range(100, 20000, 10)) * 1.001


def test_interval_has_a_floor() -> None:
    assert plan.interval(0.01, 60.0, YEAR, 1.0) >= 600, "a tenth of the time at most"
    assert plan.interval(0.01, 0.1, YEAR, 3600.0) == 3600
    assert plan.has_changed(2.0, 1.0)
    assert plan.has_changed(0.5, 1.0)
    assert not plan.has_changed(1.2, 1.0)


def test_failures_seen() -> None:
    now = 1_800_000_000.0
    nodes = [
        {"State": "IDLE", "BootTime": str(int(now - 86400))},
        {"State": "ALLOCATED", "BootTime": str(int(now - YEAR))},
        {"State": "DOWN*", "Reason": "Not responding [root@x]", "BootTime": "None"},
        {"State": "DOWN", "Reason": "maintenance", "BootTime": "None"},
    ]
    seen = failures.by_uptime(nodes, now)
    assert (seen.failures, seen.node_time) == (1, 31 * 86400.0)
    assert failures.by_uptime([], now).node_mtbf == failures.PRIOR
    text = "1798761600|n1\n1798761600|n1\n1798848000|n7\n"
    seen = failures.by_accounting(text, 1000, 90.0)
    assert seen.failures == 2
    assert seen.node_mtbf == pytest.approx(1000 * 90 * 86400 / 3, rel=0.01)


@pytest.mark.parametrize(
    ("of_qos", "of_cluster", "mode"),
    [
        ("REQUEUE", "CANCEL", "REQUEUE"),
        ("CLUSTER", "GANG,SUSPEND", "SUSPEND"),
        ("CLUSTER", "REQUEUE", "REQUEUE"),
        ("WITHIN,CANCEL", "REQUEUE", "CANCEL"),
        ("OFF", "REQUEUE", "OFF"),
    ],
)
def test_preempt_mode(of_qos: str, of_cluster: str, mode: str) -> None:
    """The cluster's counts only for a QOS that has none."""
    found = preemption.Qos(30.0, of_qos)
    assert preemption.mode(found, {"PreemptMode": of_cluster}) == mode


def test_facts() -> None:
    fields = {
        "StartTime": "1000",
        "EndTime": "4600",
        "PreemptTime": "900",  # of its last life
        "Requeue": "1",
        "BatchFlag": "1",
        "NumNodes": "3",
        "Partition": "debug",
    }
    found = ask.facts(Job(7, "alice", 1001, "RUNNING", fields))
    assert (found.slot, found.preempted, found.requeue, found.nodes) == (3600, False, True, 3)
    fields.update(PreemptTime="2000", EndTime="Unknown", BatchFlag="0")
    found = ask.facts(Job(7, "alice", 1001, "RUNNING", fields))
    assert (found.end, found.slot, found.preempted, found.is_batch) == (None, math.inf, True, False)


@pytest.mark.parametrize(
    ("script", "ahead"),
    [
        ("#!/bin/bash\n#SBATCH --cr --signal=B:USR1@120\n", 120),
        ("#SBATCH --signal TERM@30\n", 30),
        ("#SBATCH --signal=TERM\n", 0),
        ("echo --signal=TERM@30\n", 0),
    ],
)
def test_signal_of_the_script(script: str, ahead: int) -> None:
    found = ask.SIGNAL.search(script)
    assert (int(found.group(1)) if found else 0) == ahead


def test_spelling() -> None:
    times = [2.0, 0.5, 90, 3600, 5400, 17764, 4 * 86400]
    spelt = ["2 s", "0.5 s", "90 s", "60 min", "90 min", "4 h 56 min", "4 days"]
    assert [plan.spell(each) for each in times] == spelt


@pytest.mark.parametrize(
    ("kept", "given", "left"),
    [
        ("", "checkpoint=30 ", "checkpoint=30 "),
        ("", "before_end=-1 ", "before_end=-1 "),
        ("", "before_end=-2 keep=3 ", ""),
        ("", "", ""),
        ("7:30", "checkpoint=30 before_end=-1 ", ""),
        ("7:0", "before_end=60 ", ""),
        ("7:0", "checkpoint=30 ", "checkpoint=30 before_end=-2 keep=0 checkpoint_dir="),
        ("8:0", "before_end=60 ", "before_end=60 "),  # of the job that submitted this one
    ],
)
def test_step_in_a_job_with_a_keeper(
    monkeypatch: pytest.MonkeyPatch, kept: str, given: str, left: str
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CR_KEEPER", kept)
    assert wanted(given) == left


def test_a_keeper_waits_for_slurm(tmp_path: Path) -> None:
    """Without an answer it says so, goes on asking, and ends with what it is to look after."""
    words = [sys.executable, "-m", "pycr.keeper", "12.0", "-", "checkpoint=60"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env={"PATH": str(tmp_path)}
    ) as process:
        assert process.stdin is not None and process.stderr is not None
        assert b"pycr: 12.0: it has no keeper yet: scontrol: not found" in process.stderr.readline()
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(30) == 1
