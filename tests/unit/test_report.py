# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports: lives and what they went to, from journals; the text, the pictures, the JSON."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pycr.errors import UsageError
from pycr.journal import Event, Journal
from pycr.report import account, as_json, history, picture, text
from pycr.report.account import FROZEN, LOST, QUEUED, RESTORE, RUN, Known, Life
from pycr.report.history import Report
from pycr.slurm import Job, accounting
from tests.unit.test_cli import pycr

START = 1_000_000.0
NOW = START + 500


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write an event so many seconds after START into a job's journal."""

    def write(after: float, event: str, job: int = 7, **values: Any) -> None:
        monkeypatch.setattr(time, "time", lambda: START + after)
        Journal(tmp_path, job).append(event, **values)
        monkeypatch.undo()

    return write


def read(tmp_path: Path, job: int = 7) -> list[Event]:
    return Journal(tmp_path, job).events()


def commit(number: int, job: int = 7, **values: Any) -> dict[str, Any]:
    path = f"/d/{job}.batch/{number:04}"
    return {
        "id": f"{job}/{number}", "steps": [f"{job}.batch"], "path": path, "size": 1 << 20,
        "frozen": 0.5, "seconds": 2.0, "vacate": False, **values,
    }  # fmt: skip


def parts(life: Life) -> list[tuple[str, float, float]]:
    return [(each.kind, each.start - START, each.end - START) for each in life.segments]


def of(lives: list[Life], job: int = 7) -> Report:
    return Report(job, "relax", "alice", NOW, lives)


def test_three_lives(tmp_path: Path, tell: Any) -> None:
    """One that a node's failure ended, so that work was lost; one requeued; one that runs."""
    tell(3, "life", step="7.batch", since=str(START), generation="", nodes="n0")
    tell(99, "began", id="7/1", steps=["7.batch"], since=str(START), submitted=str(START - 10))
    tell(102, "committed", **commit(1))
    tell(152, "failed", id="x", steps=["7.batch"], code=1, message="no space")
    tell(209, "life", step="7.batch", since=str(START + 200), generation="/d/7.batch/0003")
    tell(210, "restored", step="7.batch", path="/d/7.batch/0001")  # 0003 was damaged
    tell(290, "restored", step="7.3", path="/d/7.1/0004")  # a step, told of late
    tell(302, "committed", **commit(2, vacate=True))
    tell(304, "ended", step="7.batch", why="requeued")
    with Journal(tmp_path, 7).path.open("ab") as file:
        file.write(b'{"time": 1, "ev\n[]\n{"time": NaN, "event": "life"}\n')
        file.write(b'{"time": 1e300, "event": "committed"}\n{"time": 5, "event": "committed"')
    tell(450, "note", text="skipped\x1b[2J")
    known = [
        Known(7, START + 150, START + 200, None, "", "n1"),
        Known(7, START + 305, START + 400, None, "RUNNING", "n2"),
    ]
    lives = account.build([(7, read(tmp_path), known)], NOW)
    assert [parts(life) for life in lives] == [
        [(QUEUED, -10, 0), (RUN, 0, 100), (FROZEN, 100, 100.5), (LOST, 100.5, 150)],
        [(QUEUED, 150, 200), (RESTORE, 200, 210), (RUN, 210, 300), (FROZEN, 300, 304)],
        [(QUEUED, 305, 400), (RUN, 400, 500)],
    ]
    assert [life.why for life in lives] == ["requeued", "requeued", "RUNNING"]
    assert [(life.source, life.assumed) for life in lives] == [
        ("", False), ("/d/7.batch/0001", False), (None, False),
    ]  # fmt: skip
    assert account.totals(lives) == {
        "useful": 290, "overhead": 14.5, "frozen": 4.5, "restore": 10, "lost": 49.5,
        "queued": 155, "unsaved": 100, "checkpoints": 2, "failed": 1, "size": 2 << 20,
    }  # fmt: skip
    assert text.remarks(lives) == [
        "life 1: a checkpoint failed: no space", "life 3: skipped\x1b[2J",
    ]  # fmt: skip
    assert as_json.load(as_json.dump(of(lives)).encode(), "it").lives[1].segments == (
        lives[1].segments
    )


def test_a_fresh_start_loses_all(tmp_path: Path, tell: Any) -> None:
    """Also what an older checkpoint than the last one has not got, over several lives."""
    for number, begin in enumerate((0, 100, 200)):
        source = ["", "/d/7.batch/0001", "/d/7.batch/0001"][number]
        tell(begin + 1, "life", step="7.batch", since=str(START + begin), generation=source)
        if number < 2:
            tell(begin + 52, "committed", **commit(number + 1))
        tell(begin + 90, "ended", step="7.batch", why="preempted")
    lives = account.build([(7, read(tmp_path), [])], NOW)
    assert [parts(life) for life in lives][:2] == [
        [(RUN, 0, 50), (FROZEN, 50, 50.5), (LOST, 50.5, 90)],
        [(QUEUED, 90, 100), (LOST, 100, 150), (FROZEN, 150, 150.5), (LOST, 150.5, 190)],
    ]
    tell(301, "life", step="7.batch", since=str(START + 300), generation="")
    assert account.totals(account.build([(7, read(tmp_path), [])], NOW))["useful"] == 1.0


def test_without_a_keeper(tmp_path: Path, tell: Any) -> None:
    """Commits alone: when it began stands in `began`; when it ended, in the next submission."""
    for begin, submitted in ((0, -5), (100, 80)):
        tell(
            begin + 20, "began", id="a", steps=["7.batch"],
            since=str(START + begin), submitted=str(START + submitted),
        )  # fmt: skip
        tell(begin + 22, "committed", **commit(begin // 100 + 1))
    lives = account.build([(7, read(tmp_path), [])], NOW)
    assert [parts(life) for life in lives] == [
        [(QUEUED, -5, 0), (LOST, 0, 20), (FROZEN, 20, 20.5), (LOST, 20.5, 80)],
        [(QUEUED, 80, 100), (RUN, 100, 120), (FROZEN, 120, 120.5), (RUN, 120.5, 122)],
    ]
    assert (lives[0].end_known, lives[1].end_known, lives[1].assumed) == (True, False, True)
    assert len(text.remarks(lives)) == 2
    # Slurm knows the last one better, and that it waits again.
    known = [
        Known(7, START + 80, START + 101, START + 130, "NODE_FAIL", "n0"),
        Known(7, START + 131, None, None, "PENDING", waits=True),
    ]
    lives = account.build([(7, read(tmp_path), known)], NOW)
    assert [parts(life) for life in lives[1:]] == [
        [(QUEUED, 80, 101), (RUN, 101, 120), (FROZEN, 120, 120.5), (RUN, 120.5, 130)],
        [(QUEUED, 131, 500)],
    ]
    assert text.state(lives[2]) == "queued"
    assert account.totals(lives)["unsaved"] == 9.5


def test_a_keeper_does_not_know_why(tmp_path: Path, tell: Any) -> None:
    """Its "done" is nobody's end where other steps follow, and says less than Slurm does."""
    for after, step in ((1, "7.0"), (21, "7.1")):
        tell(after, "life", step=step, since=str(START), generation="")
        tell(after + 10, "ended", step=step, why="done")
    tell(40, "ended", step="7.batch", why="done")
    tell(61, "life", step="7.batch", since=str(START + 60), generation="/d/7.batch/0001")
    tell(90, "ended", step="7.batch", why="done")
    known = [Known(7, START + 50, START + 60, START + 100, "COMPLETED", "n0")]
    lives = account.build([(7, read(tmp_path), known)], NOW)
    assert [(life.start - START, life.why) for life in lives] == [
        (0, "requeued"),
        (60, "COMPLETED"),
    ]
    assert account.totals(lives)["unsaved"] == 0


def test_a_step_whose_newest_is_damaged(tmp_path: Path, tell: Any) -> None:
    """It is said to go on from it, then that it was set aside; it goes on from the one before."""
    for number, after in ((1, 20), (2, 40)):
        path = f"/d/7.0/{number:04}"
        tell(after, "committed", **{**commit(number), "steps": ["7.0"], "path": path})
    for after, event, values in (
        (71, "restored", {"step": "7.0", "path": "/d/7.0/0002"}),
        (72, "note", {"step": "7.0", "text": "it is set aside", "aside": "/d/7.0/0002"}),
        (73, "restored", {"step": "7.1", "path": "/d/7.0/0001"}),
        (74, "life", {"step": "7.1", "since": str(START + 70), "generation": "/d/7.0/0001"}),
    ):
        tell(after, event, **values)
    known = [
        Known(7, START, START, START + 60, "REQUEUED", "n0"),
        Known(7, START + 60, START + 70, None, "RUNNING", "n0"),
    ]
    lives = account.build([(7, read(tmp_path), known)], NOW)
    assert [life.source for life in lives] == [None, "/d/7.0/0001"]
    assert account.totals(lives)["lost"] == 41


def test_a_step_that_goes_on_in_its_allocation(tmp_path: Path, tell: Any) -> None:
    """Vacated, and restarted as another step of the same job; two steps' commits are one."""
    both = {"vacate": True, "id": "v"}
    tell(48, "began", id="v", steps=["7.0", "7.1"], since=str(START), submitted="")
    tell(50, "committed", **{**commit(1), **both, "steps": ["7.0"], "path": "/d/7.0/0001"})
    tell(50, "committed", **{**commit(1), **both, "steps": ["7.1"], "path": "/d/7.1/0001"})
    tell(80, "restored", step="7.2", path="/d/7.1/0001")
    lives = account.build(
        [(7, read(tmp_path), [Known(7, None, START, None, "RUNNING", "n0")])], NOW
    )
    assert [parts(life) for life in lives] == [
        [(RUN, 0, 48), (FROZEN, 48, 50)],
        [(QUEUED, 50, 80), (RUN, 80, 500)],
    ]
    assert [(life.why, life.running) for life in lives] == [("vacated", False), ("RUNNING", True)]
    assert account.totals(lives)["checkpoints"] == 1


def test_an_older_job_counts_too(tmp_path: Path, tell: Any) -> None:
    """It was restarted under another id; what it had not saved is lost."""
    tell(62, "committed", **commit(1))
    tell(90, "ended", step="7.batch", why="CANCELLED")
    tell(205, "restored", job=9, step="9.batch", path="/d/7.batch/0001")
    events = read(tmp_path, 9)
    assert [account.job_of(path) for path in account.sources(events)] == [7]
    assert account.job_of("/etc/passwd") is None
    old = [Known(7, None, START, START + 90, "CANCELLED")]
    new = [Known(9, START + 150, START + 200, None, "RUNNING")]
    lives = account.build([(7, read(tmp_path), old), (9, events, new)], NOW)
    assert [parts(life) for life in lives] == [
        [(RUN, 0, 60), (FROZEN, 60, 60.5), (LOST, 60.5, 90)],
        [(QUEUED, 150, 200), (RESTORE, 200, 205), (RUN, 205, 500)],
    ]


def test_nothing_and_nonsense() -> None:
    """No journal, no life; one that anybody could have written is no trouble."""
    assert account.build([(7, [], [])], NOW) == []
    names = ["began", "committed", "failed", "note", "life", "restored", "ended"]
    odd: list[Any] = [None, "x", -1, True, [], {}, "1e999", "0", 10**400]
    events = [
        {"time": START + number, "event": name, "since": value, "seconds": value, "size": value,
         "frozen": value, "path": value, "step": value, "steps": value, "generation": value,
         "id": value, "message": value, "text": value, "why": value, "nodes": value,
         "submitted": value, "vacate": value}
        for number, (name, value) in enumerate((n, v) for n in names for v in odd)
    ]  # fmt: skip
    events += [{"time": value, "event": "life"} for value in (-1.0, 0, NOW + 1e6, float("nan"))]
    lives = account.build([(7, events, [])], NOW)
    assert lives and all(each.seconds > 0 for life in lives for each in life.segments)
    assert picture.svg(picture.draw(of(lives))) and text.lines(of(lives), 80, True)


def simple() -> Report:
    known = [Known(7, START - 30, START, START + 200, "NODE_FAIL", "n[0-3]")]
    again = [*known, Known(7, START + 210, START + 300, None, "RUNNING", "n1")]
    events: list[Event] = [
        {"time": START + 101, "event": "committed", **commit(1)},
        {"time": START + 300, "event": "restored", "path": "/e/7.batch/0001"},
    ]
    return of(account.build([(7, events, again)], NOW))


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_text_fits(columns: int) -> None:
    """Whatever the terminal; in ASCII where the locale has no more."""
    for unicode in (True, False):
        lines = text.lines(simple(), columns, unicode)
        assert max(map(len, lines)) <= max(columns, text.NARROWEST)
        assert unicode or "\n".join(lines).isascii()
    bars = [text.bar(life, START - 30, NOW, 53, text.ASCII)
            for life in simple().lives]  # fmt: skip
    assert bars[0] == "..." + "#" * 9 + "|" + "x" * 10 + " " * 30
    assert bars[1] == " " * 24 + "." * 9 + "#" * 20


def test_pictures() -> None:
    """The SVG is XML with a name for who cannot see it; the PNG is as large as it says."""
    made = simple()._replace(name="<b>&\x07\ud800")
    drawn = picture.draw(made)
    root = ElementTree.fromstring(picture.svg(drawn))
    name = "{http://www.w3.org/2000/svg}"
    title, description = root.find(f"{name}title"), root.find(f"{name}desc")
    assert title is not None and "job 7 (<b>&" in str(title.text)
    assert description is not None and "lost: 1 min 40 s" in str(description.text)
    boxes = [each.get("class") for each in root.iter(f"{name}rect")]
    assert {kind: boxes.count(kind) - 1 for kind in account.KINDS} == {
        QUEUED: 2, RESTORE: 0, RUN: 2, FROZEN: 1, LOST: 1,
    }  # fmt: skip
    data = picture.png(drawn)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (2 * drawn.width, 2 * drawn.height)


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [(1.5, [0, 1]), (40, [0, 5, 10, 15, 20, 25, 30, 35, 40]), (3600, list(range(0, 3601, 600)))],
)
def test_ticks(seconds: float, wanted: list[int]) -> None:
    """At round times, and never many, however long it was."""
    assert picture.ticks(seconds) == wanted
    assert all(2 <= len(picture.ticks(10**power)) <= 11 for power in range(11))


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"now": 1e400}', b"[" * 10**5, b"\xff", b"null"]
)
def test_a_damaged_report(data: bytes) -> None:
    with pytest.raises(UsageError, match="not what pycr report --json prints"):
        as_json.load(data, "f")
    whole = json.loads(as_json.dump(simple()))
    for key, value in (("start", -1), ("end", "x"), ("segments", [{"kind": "x"}]), ("job", True)):
        whole["lives"][0][key] = value
        with pytest.raises(UsageError):
            as_json.load(json.dumps(whole).encode(), "f")


def test_accounting() -> None:
    """sacct's rows, of this job alone, with times that it may not know."""
    rows = ["7|alice|10|20|30|NODE_FAIL|n0", "7|alice|31|Unknown|Unknown|PENDING|None",
            "7.batch|alice|1|2|3|FAILED|n0", "8|bob|1|2|3|FAILED|n0", "7|alice",
            "7|alice|1|2|3|CANCELLED by 1001|n1"]  # fmt: skip
    found = accounting.parse("\n".join(rows), 7)
    assert [(row.submitted, row.start, row.end, row.state) for row in found] == [
        (1, 2, 3, "CANCELLED"), (10, 20, 30, "NODE_FAIL"), (31, None, None, "PENDING"),
    ]  # fmt: skip
    other = found[0]._replace(user="bob")
    assert history._of("alice", [other, *found]) == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a JOB"),
        (["7", "--from", "x"], "give a JOB"),
        (["7.0"], "only a job has a report"),
        (["7", "-o", "x.gif"], "ends in .svg or .png"),
        (["--from", "{odd}"], "not what pycr report --json prints"),
    ],
)
def test_usage(tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "odd").write_text("{")
    done = pycr("report", *(word.format(odd=tmp_path / "odd") for word in words))
    assert (done.returncode, done.stdout) == (2, "") and said in done.stderr


@pytest.mark.parametrize("form", ["svg", "png", "text"])
def test_from_a_file(tmp_path: Path, form: str) -> None:
    """What was printed elsewhere is drawn, where there is no Slurm."""
    (tmp_path / "r.json").write_text(as_json.dump(simple()))
    file = tmp_path / f"r.{form}"
    words = [] if form == "text" else ["-o", str(file)]
    done = pycr("report", "--from", str(tmp_path / "r.json"), *words)
    assert (done.returncode, done.stderr) == (0, "")
    if form == "text":
        assert "lost      1 min 40 s" in done.stdout
    else:
        assert file.read_bytes() and list(tmp_path.glob(".*")) == []


def test_put_back_and_not_cleaned_up() -> None:
    """scontrol then shows a start that is now, and an end that is the time limit from now."""
    made = {"SubmitTime": START, "StartTime": time.time(), "EndTime": time.time() + 60}
    fields = {name: f"{value:.0f}" for name, value in made.items()}
    job = Job(7, "alice", 1000, "COMPLETING", fields)
    (known,) = history._known(7, job, [])
    assert (known.waits, known.submitted, known.start) == (True, None, None)
    ended = {**fields, "EndTime": fields["StartTime"]}
    (known,) = history._known(7, job._replace(fields=ended), [])
    assert (known.waits, known.end) == (False, float(fields["StartTime"]))
