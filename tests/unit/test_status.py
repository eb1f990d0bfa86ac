# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr status`: what the journal and the files say, and how it is put to people."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pycr import journal
from pycr.cli import status as cli_status
from pycr.cli.when import age, span
from pycr.coordinator import status
from pycr.coordinator.status import Keeping, Last, Of, Part, Progress, Status
from pycr.errors import AccessDenied
from pycr.journal import Running
from pycr.slurm import BATCH, Job, Step, batch_step

JOB = Job(7, "alice", os.getuid(), "RUNNING", {"StartTime": "1000", "EndTime": "9000"})
STEP = Step(7, 0, os.getuid(), "RUNNING", 4, 2, {"StartTime": "1001"})


def event(what: str, time: float, **values: Any) -> journal.Event:
    return {"event": what, "time": time, **values}


def life(since: str, time: float = 2000, **values: Any) -> journal.Event:
    return event("life", time, since=since, **{"interval": 600, "before_end": 0, **values})


@pytest.mark.parametrize(
    ("events", "wanted"),
    [
        ([], Keeping()),
        ([life("1000")], Keeping(600, 0, 2600)),
        ([life("999")], Keeping()),  # of an earlier life
        ([life("1000"), event("ended", 2001, why="done")], Keeping()),
        ([life("1000"), event("committed", 3000, steps=["7.batch"])], Keeping(600, 0, 3200)),
        ([life("1000"), event("committed", 3000, steps=["7.0"])], Keeping(600, 0, 3200)),
        ([life("1000"), event("next", 2100, at=2900)], Keeping(600, 0, 2900)),
        (
            [life("1000"), event("next", 2100, at=2900), event("committed", 2950, step="7.batch")],
            Keeping(600, 0, 3200),
        ),
        ([life("1000", interval=0, before_end=120)], Keeping(0, 120, 8880)),
        ([life("1000", interval=86400, before_end=120)], Keeping(86400, 120, 8880)),
        ([life("1000", interval=0)], Keeping()),
        ([life("1000", interval="600", before_end=True)], Keeping(0, 1, 8999)),
        ([life("1000", step="7.1")], Keeping()),
        ([life("1000", steps="7.batch")], Keeping(600, 0, 2600)),
    ],
)
def test_what_a_keeper_does(events: list[journal.Event], wanted: Keeping) -> None:
    now = max((each["time"] for each in events), default=0.0) + 1
    assert status.keeping(events, batch_step(JOB), JOB, now) == wanted


def test_a_steps_keeper_is_its_own() -> None:
    assert status.keeping([life("1001", step="7.0")], STEP, JOB, 2001) == Keeping(600, 0, 2600)
    assert status.keeping([life("1000")], STEP, JOB, 2001) == Keeping()


def made(path: Path, sizes: dict[str, int]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name, size in sizes.items():
        with open(path / name, "wb") as file:
            file.truncate(size)


def test_how_far_a_checkpoint_is(tmp_path: Path) -> None:
    whole, part = tmp_path / ".new-1", tmp_path / ".new-1/7.0"
    for name in (".", "task.0", "7.0/task.0", "7.0/task.1"):
        made(whole / name, {})
    running = Running(
        "ab", 5.0, 9e9, "h", 1, (str(part), str(whole)), {"n0": 400, "n1": 100}, ("7.0", "7.batch")
    )
    where = {"7.0": {"n0": [0], "n1": [1]}, "7.batch": {"n0": [0]}}

    def now() -> Progress:
        return status.progress(running, where)

    assert now().phase == "freezing"
    assert now().nodes == {"n0": Part(0, 400), "n1": Part(0, 100)}
    made(part / "task.0", {"pages-1.img": 150})
    made(part / "task.1", {"pages-1.img": 120, status.WHOLE: 1})
    made(whole / "task.0", {"core-1.img": 50})
    (part / "task.1/link").symlink_to("/proc/kcore")
    assert (now().phase, now().whole) == ("writing", Part(321, 500))
    assert now().nodes == {"n0": Part(200, 400), "n1": Part(121, 100)}
    assert [each.share for each in now().nodes.values()] == [0.5, 1.0]
    made(part / "task.0", {status.WHOLE: 1})
    made(whole / "task.0", {status.WHOLE: 1})
    assert now().phase == "durable"
    # Slurm does not say any more where the tasks are: the whole cannot be known to be done.
    assert status.progress(running, {"7.0": {}, "7.batch": {"n0": [0]}}).phase == "writing"
    whole.rename(tmp_path / "0001")
    assert (now().phase, now().whole.share) == ("ending", 1.0)


def test_a_last_checkpoint_that_is_gone(tmp_path: Path) -> None:
    gone = event("committed", 50.0, path=str(tmp_path / "0001"), size=7, frozen=0.5)
    found = status.last(gone)
    assert found == Last(str(tmp_path / "0001"), 50.0, 7, 0.5, 0.0, "it has been removed")
    (tmp_path / "0001").mkdir(0o700)
    found = status.last({**gone, "size": "7", "frozen": float("nan")})
    assert found is not None
    assert (found.size, found.frozen) == (0, 0.0)
    assert "manifest.json" in found.why


def of(**values: Any) -> Of:
    base = Of("7.0", "app", "RUNNING", 4, 2, 1001.0, 0, Keeping(), None, None, 0, "")
    return base._replace(**values)


def text(*steps: Of, now: float = 2000.0, **values: Any) -> list[str]:
    base = Status(7, "alice", "j", "RUNNING", 0, 1000.0, 9000.0, 0, list(steps))
    return cli_status.text(base._replace(**values), now)


def test_text() -> None:
    lines = text(of())
    assert lines == [
        "Job 7 (j) of alice: RUNNING for 16 min 40 s, 1 h 56 min left, checkpoints enabled",
        "Step 7.0 (app)",
        "  state       RUNNING, 4 tasks on 2 nodes, checkpoints enabled",
        "  last        no checkpoint yet",
    ]
    assert text(disabled=2, restarts=1)[0].endswith(
        "started again 1 time, checkpoints disabled, 2 times"
    )
    assert text(state="COMPLETED")[0] == "Job 7 (j) of alice: COMPLETED"
    last = Last("/d/7.0/0003", 1880.0, 3 << 20, 0.126, 11520.0, "")
    lines = text(
        of(last=last, keeping=Keeping(600, 120, 2200.0), error_code=2036, error_msg="a\nb")
    )
    assert lines[3].startswith("  periodic    every 10 min, 2 min before the job's end, next in 3 ")
    assert lines[4:] == [
        "  last        /d/7.0/0003, 2 min ago, 3.0 MiB, frozen 0.13 s, saves 3 h 12 min",
        "  last error  2036: a\\nb",
    ]


def test_text_of_a_running_checkpoint() -> None:
    nodes = {"n0": Part(149, 300), "n1": Part(120, 100), "n2": Part(0, 0)}
    running = Progress("ab", ("7.0", "7.batch"), 1990.0, "writing", Part(269, 400), nodes)
    lines = text(of(step="7.batch", running=running), of(running=running))
    assert lines[4:8] == [
        "  running     writing, for 10 s: 269 B of 400 B",
        "    n0        [###########-------------]  49 %  149 B of 300 B",
        "    n1        [########################] 100 %  100 B of 100 B",
        "    n2        [########################] 100 %  0 B of 0 B",
    ]
    assert lines[-1] == "  running     with 7.batch"


@pytest.mark.parametrize(
    ("what", "seconds", "wanted"),
    [
        (span, 0.9, "0 s"),
        (span, 59, "59 s"),
        (span, 60, "1 min"),
        (span, 11520, "3 h 12 min"),
        (span, 86400 + 59, "1 d"),
        (span, 90000, "1 d 1 h"),
        (span, -5, "0 s"),
        (age, 119, "119 s"),
        (age, 7200, "2 h"),
    ],
)
def test_lengths(what: Callable[[float], str], seconds: float, wanted: str) -> None:
    assert what(seconds) == wanted


@pytest.mark.parametrize("word", ["0", "-1", "nan", "inf", "x", ""])
def test_odd_intervals(word: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no number of seconds"):
        cli_status.interval(word)


def test_another_users_job() -> None:
    theirs = JOB._replace(uid=os.getuid() + 1)
    if os.getuid() != 0:
        with pytest.raises(AccessDenied, match="it is alice's, not yours"):
            cli_status.become_owner(theirs, "7")
    assert cli_status.become_owner(JOB, "7") == JOB


def test_ended_steps_are_named_as_slurm_would() -> None:
    assert status.ended(JOB, "7.batch").step_id == BATCH
    assert sorted(["7.10", "7.2", "7.batch"], key=status.by_number) == ["7.batch", "7.2", "7.10"]
    assert status.named({"steps": ["7.0", 5, "../x"]}) == ["7.0"]
    assert status.named({"steps": 5}) == []
