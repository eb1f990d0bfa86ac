# SPDX-License-Identifier: GPL-2.0-or-later
"""The meeting of a restart: none goes on before all are there, and none at all if one fails."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pycr.pod.meeting import Meeting, OtherFailed, Place, sweep

TASKS = 4


def meetings(generation: Path) -> list[Meeting]:
    return [Meeting(generation, Place("14.0", task, TASKS)) for task in range(TASKS)]


class Waiter(threading.Thread):
    """One task that waits; `ended` is "ran" or "refused"."""

    def __init__(self, meeting: Meeting) -> None:
        super().__init__(daemon=True)
        self.meeting, self.ended = meeting, ""
        self.start()

    def run(self) -> None:
        try:
            self.meeting.wait()
            self.ended = "ran"
        except OtherFailed:
            self.ended = "refused"


@pytest.fixture
def generation(tmp_path: Path) -> Path:
    path = tmp_path / "12.0" / "0001"
    path.mkdir(parents=True)
    return path


def test_none_goes_on_before_all_are_there(generation: Path) -> None:
    *first, last = meetings(generation)
    waiters = [Waiter(each) for each in first]
    for waiter in waiters:
        waiter.join(0.1)
        assert waiter.is_alive()
    last.wait()
    for waiter in waiters:
        waiter.join(30)
        assert waiter.ended == "ran"
    assert os.listdir(generation.parent) == ["0001"]


@pytest.mark.parametrize("early", [True, False])
def test_one_that_fails_stops_all(generation: Path, early: bool) -> None:
    *others, bad = meetings(generation)
    if early:
        assert bad.fail()
    waiters = [Waiter(each) for each in others]
    if not early:
        assert bad.fail()
    for waiter in waiters:
        waiter.join(30)
        assert waiter.ended == "refused"
    assert os.listdir(generation.parent) == ["0001"]


def test_two_that_fail(generation: Path) -> None:
    one, other, *rest = meetings(generation)
    assert one.fail()
    assert other.fail()
    for each in rest:
        with pytest.raises(OtherFailed):
            each.wait()
    assert os.listdir(generation.parent) == ["0001"]


def test_who_fails_after_it_is_not_heard(generation: Path) -> None:
    waiters = [Waiter(each) for each in meetings(generation)]
    for waiter in waiters:
        waiter.join(30)
    assert not waiters[0].meeting.fail()


def test_where_there_is_no_place_nobody_waits() -> None:
    meeting = Meeting(Path("/proc/12.0/0001"), Place("14.0", 0, TASKS))
    meeting.wait()
    assert not Meeting(Path("/proc/12.0/0001"), Place("14.0", 0, TASKS)).fail()


def test_a_lone_task_needs_none(generation: Path) -> None:
    meeting = Meeting(generation, Place("14.0", 0, 1))
    meeting.wait()
    assert meeting.fail()
    assert os.listdir(generation.parent) == ["0001"]


def test_what_a_killed_restart_left_is_swept_when_it_is_old(generation: Path) -> None:
    for name, age in ((".restart-13.0", 90000), (".restart-14.0", 0)):
        path = generation.parent / name
        path.mkdir()
        (path / "arrived.0").touch()
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))
    sweep(generation)
    assert sorted(os.listdir(generation.parent)) == [".restart-14.0", "0001"]
