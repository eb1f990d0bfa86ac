# SPDX-License-Identifier: GPL-2.0-or-later
"""What is of no more use, by what Slurm and the directories say; what Slurm says is given here,
on the real one: tests/slurm/test_retention.py."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pycr import identity, journal
from pycr.images import gc, image, sweep
from pycr.images.gc import Jobs, Rules
from pycr.slurm import Job
from tests.unit.test_image import write
from tests.unit.test_manifest import made  # kept_running, created at 1.5

LATER = {"SubmitTime": "1", "StartTime": "1", "EndTime": "100"}
OVER = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "PREEMPTED")


def slurm(state: str, **more: str) -> Jobs:
    return Jobs({12: Job(12, "me", os.getuid(), state, {**LATER, **more})} if state else {})


def gone(place: Path, jobs: Jobs, **rules: float) -> list[str]:
    found = gc.find(place, jobs, Rules(**rules))  # type: ignore[arg-type]
    return sorted(str(each.path.relative_to(place)) for each in found)


def generations(place: Path, count: int, text: bytes = b"abc") -> None:
    for _ in range(count):
        write(place, text)


def with_key(generation: Path, key: str) -> Path:
    """Have a generation say which step of its script it is of."""
    manifest = image.load(generation)
    task = manifest.tasks[0]
    tasks = [task._replace(environment={**task.environment, identity.VARIABLE: [key]})]
    (generation / image.MANIFEST).write_bytes(manifest._replace(tasks=tasks).dumps())
    return generation


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "SUSPENDED", "COMPLETING", "?"])
def test_of_a_job_that_goes_on(tmp_path: Path, state: str) -> None:
    """Nothing but what is asked for."""
    generations(tmp_path, 3)
    jobs = slurm(state) if state != "?" else Jobs(None)
    assert gone(tmp_path, jobs) == []
    assert gone(tmp_path, jobs, older_than=1.0) == []
    assert gone(tmp_path, jobs, keep=2) == ["12.0/0001"]


@pytest.mark.parametrize("state", ["", *OVER[1:]])
def test_of_a_job_that_could_be_restarted(tmp_path: Path, state: str) -> None:
    """The newest whole one stays, unless it is too old."""
    generations(tmp_path, 3)
    (tmp_path / "12.0" / "0003" / "task.0" / "core-1.img").write_bytes(b"")
    assert gone(tmp_path, slurm(state)) == ["12.0/0001"]
    assert gone(tmp_path, slurm(state), keep=2) == []
    assert len(gone(tmp_path, slurm(state), older_than=60.0)) == 3
    assert gone(tmp_path, slurm(state), older_than=2 * time.time()) == ["12.0/0001"]


def test_of_a_job_that_ended_well(tmp_path: Path) -> None:
    """All; but another job's end is not this one's, nor is that of a life before."""
    generations(tmp_path, 2)
    both = ["12.0/0001", "12.0/0002"]
    assert gone(tmp_path, slurm("COMPLETED")) == both
    assert gone(tmp_path, slurm("COMPLETED", SubmitTime="5")) == both[:1], "by the same number"
    other = Jobs({12: Job(12, "you", os.getuid() + 1, "COMPLETED", LATER)})
    assert gone(tmp_path, other) == both[:1]
    manifest = tmp_path / "12.0" / "0002" / "manifest.json"
    vacated = image.load(manifest.parent)._replace(kept_running=False)
    manifest.write_bytes(vacated.dumps())
    assert gone(tmp_path, slurm("COMPLETED")) == both[:1], "it is still to be restarted"
    assert gone(tmp_path, slurm("COMPLETED", StartTime="5")) == both, "and it was"
    assert made().created == 1.5
    manifest.write_bytes(vacated._replace(kept_running=True).dumps())
    journal.Journal(tmp_path, 12).append("ended", why="done")
    assert gone(tmp_path, slurm("")) == both[:1], "a keeper knows that it ended, not how"


def test_the_largest_of_all(tmp_path: Path) -> None:
    """The oldest go, and the newest of each step stays."""
    generations(tmp_path, 4, b"x" * 100)
    assert gone(tmp_path, slurm("RUNNING"), max_size=250) == ["12.0/0001", "12.0/0002"]
    assert gone(tmp_path, slurm("RUNNING"), max_size=1) == [f"12.0/000{n}" for n in (1, 2, 3)]
    assert gone(tmp_path, slurm("RUNNING"), max_size=400) == []


def test_of_a_job_that_was_requeued(tmp_path: Path) -> None:
    """Slurm then says that it was submitted just now: its checkpoints are its own all the same."""
    generations(tmp_path, 3)
    for state in ("RUNNING", "PENDING"):
        jobs = slurm(state, SubmitTime=str(int(time.time()) + 9), Restarts="1")
        assert gone(tmp_path, jobs) == gone(tmp_path, jobs, older_than=1.0) == []
    jobs = slurm("COMPLETED", SubmitTime=str(int(time.time()) + 9), Restarts="1")
    assert len(gone(tmp_path, jobs)) == 3


def test_the_good_ones(tmp_path: Path) -> None:
    """One that was set aside is not what stays, and each step of a script has its own newest."""
    for key in ("a.0", "b.0", "a.0", "b.0"):
        with_key(write(tmp_path), key)
    step = tmp_path / "12.0"
    image.set_aside(step / "0004", "it was odd")
    assert gone(tmp_path, slurm("FAILED")) == ["12.0/0001"]
    assert gone(tmp_path, slurm("RUNNING"), max_size=1) == ["12.0/0001", "12.0/0004"]
    for name in ("0001", "0002", "0003"):
        (step / f"{name}.set-aside").write_text("why")
    assert gone(tmp_path, slurm("RUNNING"), keep=1) == []
    assert gone(tmp_path, slurm("RUNNING"), max_size=1) == ["12.0/0001", "12.0/0002"]


def test_notes_of_no_more_use(tmp_path: Path) -> None:
    generations(tmp_path, 1)
    step = tmp_path / "12.batch"
    step.mkdir(0o700)
    for name in ("newest", "requeue"):
        (step / name).write_text(f"{step}/0007\n")
    old = [".failed-12.0-0a1b2c3d", "newest.4711", "requeue.4712"]
    for name in (*old, ".failed-12.1-0a1b2c3e", "requeue.4713"):
        (step / name).write_text("/x\n")
    for name in old:
        os.utime(step / name, (100, 100))
    (step / "0007.set-aside").write_text("why")
    found = sorted(f"12.batch/{name}" for name in (*old, "0007.set-aside"))
    assert gone(tmp_path, slurm("RUNNING")) == found
    over = {*found, "12.batch/newest", "12.batch/requeue"}
    assert set(gone(tmp_path, slurm("FAILED"))) == over
    for each in gc.find(tmp_path, slurm("FAILED"), Rules()):
        gc.remove(each)
    assert sorted(os.listdir(step)) == [".failed-12.1-0a1b2c3e", ".lock", "requeue.4713"]


def test_what_else_lies_there(tmp_path: Path) -> None:
    generations(tmp_path, 1)
    step = tmp_path / "12.0"
    for name in (".new-0002-00000000", ".restart-14.0", ".restart-15.0", "cut-14.0", "cut-15.0"):
        (step / name).mkdir()
    for name in (".restart-14.0", "cut-14.0"):
        os.utime(step / name, (100, 100))
    known = {
        14: Job(14, "me", os.getuid(), "COMPLETED", LATER),
        15: Job(15, "me", os.getuid(), "RUNNING", LATER),
    }
    wanted = [".new-0002-00000000", ".restart-14.0", "cut-14.0"]
    assert gone(tmp_path, Jobs(known)) == [f"12.0/{name}" for name in wanted]
    # A restart that runs is a reason to keep what it was restarted from.
    assert f"12.0/{wanted[0]}" in gone(tmp_path, Jobs(known), older_than=1.0)
    assert "12.0/0001" not in gone(tmp_path, Jobs(known), older_than=1.0)
    for each in gc.find(tmp_path, Jobs(known), Rules()):
        gc.remove(each)
    assert sorted(os.listdir(step)) == [".lock", ".restart-15.0", "0001", "cut-15.0"]
    # While a checkpoint is written, its directory is no remains.
    (step / ".new-0003-00000000").mkdir()
    directory = image.open_owned(step)
    lock = image.take_lock(directory, "12.0")
    assert gone(tmp_path, Jobs(known)) == []
    os.close(lock)
    os.close(directory)


def test_journals(tmp_path: Path) -> None:
    """One goes with its job's last image, not with a young one, and not while the job runs."""
    generations(tmp_path, 1)
    for job_id in (12, 13):
        log = journal.Journal(tmp_path, job_id)
        log.append("committed", path=str(tmp_path / "12.0" / "0001") if job_id == 12 else "/none")
        assert gone(tmp_path, slurm("")) == []
        os.utime(log.path, (1e9, 1e9))
    assert gone(tmp_path, slurm("")) == [".journal/13"]
    assert gone(tmp_path, Jobs(None)) == []
    every = [".journal/12", ".journal/13", "12.0/0001"]
    assert gone(tmp_path, slurm("COMPLETED", SubmitTime="0")) == every
    for each in gc.find(tmp_path, slurm("COMPLETED"), Rules()):
        gc.remove(each)
    assert os.listdir(tmp_path / ".journal") == [] and not (tmp_path / "12.0").exists()


def test_links_lead_nowhere(tmp_path: Path) -> None:
    """Neither in the search nor in what is removed."""
    place, away = tmp_path / "place", tmp_path / "away"
    for path in (place, away, place / "below"):
        path.mkdir()
    generations(away, 2)
    (place / "12.0").symlink_to(away / "12.0")
    (place / "below" / "link").symlink_to(away)
    generations(place / "below", 1)
    (place / "below" / "12.0" / ".new-0002-00000000").symlink_to(away)
    assert [found.path for found in sweep.search(place)] == [place / "below"]
    assert gone(place, slurm("")) == []
    for each in gc.find(place / "below", slurm(""), Rules()):
        gc.remove(each)
    assert sorted(os.listdir(place / "below" / "12.0")) == [".lock", "0001"]
    assert len(image.generations(away / "12.0")) == 2
