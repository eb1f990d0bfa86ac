# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal: what its lines say of a step, and whom it does not believe."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from pycr.errors import AccessDenied, DirectoryError
from pycr.journal import DIRECTORY, Event, Journal, State, begin, state

NOW = 1000.0


def event(name: str, **values: Any) -> Event:
    return {"time": NOW, "event": name, **values}


def began(name: str, pid: int = 0, host: str = "", until: float = 0.0) -> Event:
    return event(
        "began", id=name, steps=["7.0", "7.batch"], host=host or socket.gethostname(),
        pid=pid or os.getpid(), until=until, dir=["/d"], needs={"n0": 5},
    )  # fmt: skip


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    """In order, with the time of each."""
    journal = Journal(tmp_path / "checkpoint", 7)
    assert journal.events() == []
    journal.append("disable", step="7.0", since="1")
    journal.append("note", text="a\nb")
    found = journal.events()
    assert [each["event"] for each in found] == ["disable", "note"]
    assert abs(found[0]["time"] - time.time()) < 60 and found[1]["text"] == "a\nb"
    assert journal.path.stat().st_mode & 0o777 == 0o600
    for place in (journal.path.parent, journal.place):
        assert place.stat().st_mode & 0o777 == 0o700


def test_torn_lines_are_passed_over(tmp_path: Path) -> None:
    """What is behind one is read, also where the writer died within its line."""
    journal = Journal(tmp_path, 7)
    journal.append("note", text="one")
    with journal.path.open("ab") as file:
        file.write(b'{"time": 1, "event": "no')
    journal.append("note", text="two")
    with journal.path.open("ab") as file:
        file.write(b'{"event": "x", "time": 1, "seconds": 1' + b"0" * 400 + b"}\n")
        file.write(
            b'[]\n{"event": 3, "time": 1}\n{"time": true, "event": "x"}\n\xff\n' + b"[" * 10**5
        )
    assert [each["text"] for each in journal.events()] == ["one", "two"]


def test_an_earlier_job_of_the_number(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 7)
    journal.append("done", key="k.0")
    assert begin(journal.every()) == 0 == begin([])
    journal.append("first")
    journal.append("first")
    journal.append("note", text="mine")
    assert [each["event"] for each in journal.events()] == ["first", "note"]
    assert len(journal.every()) == 4


@pytest.mark.parametrize("what", ["directory", "file"])
def test_what_others_could_write_is_not_believed(tmp_path: Path, what: str) -> None:
    """Neither read nor written."""
    journal = Journal(tmp_path, 7)
    journal.append("note", text="one")
    path = journal.path if what == "file" else journal.path.parent
    path.chmod(0o770)
    for use in (journal.events, lambda: journal.append("note")):
        with pytest.raises(AccessDenied, match="writable by others"):
            use()
    path.chmod(0o700)
    with pytest.raises(AccessDenied, match="another user's"):
        Journal(tmp_path, 7, uid=os.geteuid() + 1).events()


def test_links_and_fifos_are_not_followed(tmp_path: Path) -> None:
    """An error, at once."""
    journal = Journal(tmp_path, 7)
    (tmp_path / DIRECTORY).mkdir(mode=0o700)
    journal.path.symlink_to(tmp_path / "else")
    with pytest.raises(DirectoryError):
        journal.append("note")
    with pytest.raises(DirectoryError):
        journal.events()
    journal.path.unlink()
    os.mkfifo(journal.path)
    assert journal.events() == []
    assert not (tmp_path / "else").exists()


def test_disable_and_enable_count() -> None:
    """For the step, and for its job; in the life that they were said in."""
    events = [
        event("disable", step="7.0", since="1"),
        event("disable", step="7.0", since="1"),
        event("disable", since="1"),
        event("enable", step="7.0", since="1"),
        event("enable", step="7.1", since="1"),
    ]
    assert state(events, "7.0", "1", "1")[:2] == (1, 1)
    assert state(events, "7.1", "1", "1")[:2] == (0, 1)
    assert state(events, None, "", "1")[:2] == (0, 1)
    assert state(events, "7.0", "2", "2")[:2] == (0, 0)


def test_a_checkpoint_from_its_beginning_to_its_end() -> None:
    """Running while its own writer has not said how it ended; another's failure is not its end."""
    begun = [event("failed", id="a", steps=["7.0"], code=3, message="old"), began("b")]
    running = state(begun, "7.0").running
    assert running is not None and (running.began, running.needs) == (NOW, {"n0": 5})
    assert state(begun, "7.0").error_code == 0
    assert state(begun, "7.1").running is None
    other = [*begun, event("failed", id="c", steps=["7.0"], code=2, message="busy")]
    assert state(other, "7.0").running == running
    done = event("committed", id="b", steps=["7.0"], path="/d")
    assert state([*other, done], "7.0").last == done
    assert state([*other, done], "7.0").running is None


@pytest.mark.parametrize(
    ("pid", "host", "until", "runs"),
    [
        (1 << 22, "", 1e12, False),
        (0, "elsewhere", 1e12, True),
        (1, "elsewhere", 1.0, False),
    ],
    ids=["its process is gone", "elsewhere", "elsewhere and too late"],
)
def test_a_killed_one_does_not_run_for_ever(pid: int, host: str, until: float, runs: bool) -> None:
    """On its host it is looked for; elsewhere it has its time."""
    found = state([began("b", pid, host, until)], "7.batch").running
    assert (found is not None) == runs


def test_one_of_an_earlier_life_does_not_run() -> None:
    begun = [{**began("b"), "since": "1000"}]
    assert state(begun, "7.0", "1000", "1000").running is not None
    assert state(begun, "7.0", "1000").running is not None
    assert state(begun, "7.0", "2000", "2000").running is None


def test_only_the_highest_code_is_kept() -> None:
    """As slurm_checkpoint(3) has it; a new checkpoint begins without."""
    events = [began("b")]
    for code, text in ((2, "two"), (5, "five"), (3, "three")):
        events.append(event("complete", step="7.0", code=code, message=text))
    found = state(events, "7.0")
    assert (found.error_code, found.error_msg) == (5, "five")
    assert state([*events, began("c")], "7.0").error_code == 0


def test_odd_events_are_no_trouble() -> None:
    """They are the user's own, and may be anything."""
    odd = [event("began", until="x"), event("began"), event("failed", code="1"), event("what")]
    assert state(odd, "7.0") == State()
