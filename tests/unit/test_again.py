# SPDX-License-Identifier: GPL-2.0-or-later
"""Which step an srun_cr is, which generations it looks at, and those that are set aside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycr import again, identity
from pycr.errors import GeometryError, ImageError, SlurmError
from pycr.identity import VARIABLE
from pycr.images import image, removal
from pycr.images.writer import Writer
from pycr.journal import Journal
from pycr.keeper.diary import Diary
from pycr.settings import by_hand, options
from tests.unit.test_image import write
from tests.unit.test_manifest import made

JOB = "4294967001"  # no cluster has it


@pytest.fixture
def in_job(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setenv("SLURM_JOB_ID", JOB)
    monkeypatch.setenv(identity.BATCH, JOB)
    monkeypatch.setenv("SLURM_TASK_PID", "7")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    yield monkeypatch
    Path(identity.PLACE + JOB).unlink(missing_ok=True)


def test_steps_are_told_apart(in_job: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By command, geometry, directory, name and order; and counted anew in each life."""
    first = identity.of_step(["-n1", "./app"])
    key = first.rpartition(".")[0]
    assert identity.of_step(["-n1", "./app"]) == f"{key}.1"
    in_job.chdir(tmp_path)
    there = identity.of_step(["-n1", "./app"])
    in_job.setenv("SLURM_NTASKS", "2")
    more = identity.of_step(["-n1", "./app"])
    others = [identity.of_step(words) for words in (["-n2", "./app"], ["-n1", "./ap", "p"])]
    every = {first, there, more, *others}
    assert len(every) == 5 and all(each.endswith(".0") for each in every)
    assert [identity.of_step(["x"], "main"), identity.of_step(["y"], "main")] == [
        "@main.0",
        "@main.1",
    ]
    in_job.setenv("SLURM_RESTART_COUNT", "1")
    assert identity.of_step(["z"], "main") == "@main.0"
    assert identity.of_step(["-n1", "./app"]) == more


def test_the_steps_of_this_life(in_job: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the plugin says that they are counted."""
    in_job.setenv(identity.BATCH, f"{JOB}:{tmp_path / 'here'}")
    assert identity.in_script() and identity.seen() == set()
    both = {identity.of_step(["x"], "main"), identity.of_step(["y"], "main")}
    assert identity.seen() == both and (tmp_path / "here").exists()
    in_job.setenv("SLURM_RESTART_COUNT", "1")
    assert identity.seen() == set() and identity.of_step(["x"]) not in both


def test_steps_at_once_are_all_counted(in_job: pytest.MonkeyPatch) -> None:
    children = []
    for _ in range(40):
        read, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(write_end, identity.of_step(["./app"]).encode())
            os._exit(0)
        os.close(write_end)
        children.append((pid, read))
    found = []
    for pid, read in children:
        os.waitpid(pid, 0)
        found.append(int(os.read(read, 100).decode().rpartition(".")[2]))
        os.close(read)
    assert sorted(found) == list(range(40))


def test_not_in_another_users_file(in_job: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nor through a link, and nothing waits for a FIFO."""
    place = Path(identity.PLACE + JOB)
    place.symlink_to(tmp_path / "target")
    with pytest.raises(OSError):
        identity.of_step(["./app"])
    assert not (tmp_path / "target").exists()
    place.unlink()
    if os.geteuid() == 0:
        place.touch()
        os.chown(place, 65534, 65534)
        with pytest.raises(OSError):
            identity.of_step(["./app"])
        assert place.read_bytes() == b""


@pytest.mark.parametrize(
    ("words", "name", "fallback", "skip"),
    [
        ("--cr-name=a --cr-fallback fresh -n 2 --cr-skip-done app --cr-name=b", "a", "fresh", True),
        ("-n2 app arg --cr-fallback=fresh", "", "fail", False),
        ("--exact -n1 --cr-name a -- --cr-name=b", "a", "fail", False),
        ("", "", "fail", False),
    ],
)
def test_options_of_an_srun_cr_by_hand(words: str, name: str, fallback: str, skip: bool) -> None:
    found = by_hand(words.split(), {})
    assert (found.name, found.fallback, found.skip_done) == (name, fallback, skip)


def test_variables_of_an_srun_cr_by_hand() -> None:
    assert by_hand([], {"SLURM_CR_FALLBACK": "fresh"}).fallback == "fresh"
    assert by_hand(["--cr-fallback=fail"], {"SLURM_CR_FALLBACK": "fresh"}).fallback == "fail"
    assert options(["--restart-dir", "/a b", "x"]) == [("--restart-dir", "/a b")]


# ---- generations --------------------------------------------------------------------------------


def write_of(place: Path, key: str, created: float) -> Path:
    """Make a generation of a step that has one small file; return its path."""
    writer = Writer(place, 12, 0)
    writer.add_tasks(1)
    (writer.path / "task.0" / "core-1.img").write_bytes(b"abc")
    descriptor = os.open(writer.path / "task.0", os.O_RDONLY)
    files = {name: (size, digest) for name, size, digest in image.seal_task(descriptor)}
    os.close(descriptor)
    wanted = made(1, writer.generation)
    task = wanted.tasks[0]._replace(files=files, environment={VARIABLE: [key]})
    done = writer.commit(wanted._replace(created=created, tasks=[task]))
    writer.close()
    return done


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image directory in which Steps looks, without Slurm."""
    monkeypatch.setattr(again, "journal_of", lambda _: None)
    monkeypatch.setattr(again, "places", lambda *_: [tmp_path])
    return tmp_path


def test_its_own_generations_newest_first(steps: Path) -> None:
    """Whatever their numbers; not another step's, not those that were set aside or are damaged."""
    newest = write_of(steps, "k.0", 30.0)
    write_of(steps, "k.1", 40.0)
    oldest = write_of(steps, "k.0", 10.0)
    aside = write_of(steps, "k.0", 50.0)
    damaged = write_of(steps, "k.0", 60.0)
    image.set_aside(aside, "it was odd")
    (damaged / "task.0" / "core-1.img").write_bytes(b"ab")
    found = again.Steps(12, "k.0", "")
    assert found.had == 4
    assert [found.next(), found.next(), found.next()] == [newest, oldest, None]
    assert "2 bytes, the manifest says 3" in image.aside(damaged)
    assert len(found.told) == 1 and image.aside(newest) == ""
    other = again.Steps(12, "other.0", "")
    assert other.had == 0 and other.unclaimed({"k.0", "k.1"}) is None
    assert other.unclaimed({"k.0"}) is not None
    # One of which nobody can say whose it is may be of any step that has none.
    (newest / image.MANIFEST).write_text("{")
    other = again.Steps(12, "other.0", "")
    assert other.had == 1 and other.next() is None and "manifest" in image.aside(newest)


def test_none_of_an_earlier_job(steps: Path) -> None:
    """Which had the number: those that the journal has as such, and older ones; clocks differ."""
    old = write_of(steps, "k.0", 1000.0)
    other = write_of(steps, "k.0", 1900.0)
    own = write_of(steps, "k.0", 2000.0 - again.SKEW)
    known = {"event": "committed", "time": 1900.0, "path": str(other)}
    every = [known, {"event": "first", "time": 2000.0}]
    assert [each.path for each in again.generations(12, [steps], every)] == [own]
    assert len(again.generations(12, [steps], [known])) == 3
    every.append({**known, "time": 2001.0})  # the first one of the name was removed
    every.append({**known, "time": 2001.0, "path": str(old)})  # from where the clock is wrong
    assert [each.path for each in again.generations(12, [steps], every)] == [other, own, old]


def test_why_a_restart_failed(steps: Path) -> None:
    """It is set aside for what is its own fault alone; a task's own 125 is none."""
    path = write_of(steps, "k.0", 1.0)
    found = again.Steps(12, "k.0", "")
    where = "task 0 on n1"
    assert not found.failed(path, "12.7", "a1")
    again.say_failed(path, "12.7", "a1", SlurmError("the node's"), where)
    again.say_failed(path, "12.7", "../a1", ImageError("no number of an srun_cr's"), where)
    assert not found.failed(path, "12.7", "a1")
    again.say_failed(path, "12.7", "a1", GeometryError("2 tasks"), where)
    again.say_failed(path, "12.7", "a1", ImageError("another task's, later"), where)
    assert not found.failed(path, "12.7", "a2"), "nobody has read that in an earlier life"
    assert found.failed(path, "12.7", "a1") and image.aside(path) == ""
    again.say_failed(path, "12.7", "a2", ImageError("damaged"), where)
    assert found.failed(path, "12.7", "a2") and image.aside(path) == f"{where}: damaged"
    assert sorted(each.name for each in path.parent.iterdir()) == [
        ".lock",
        "0001",
        "0001.set-aside",
    ]


def test_nothing_begins_anew_for_ever(tmp_path: Path) -> None:
    """Nor is a job put back for ever that gets nothing done."""
    path = write_of(tmp_path, "k.0", 1.0)
    log = Journal(tmp_path, 12)
    diary = Diary("12.0", log)
    assert not again.in_vain(log.events(), "k.0") and diary.lives(path) == 0
    log.append("note", text="it begins anew", anew="k.0")
    log.append("restored", step="12.0", path=str(path))
    assert not again.in_vain(log.events(), "k.0") and diary.lives(path) == 1
    image.set_aside(path, "it was launched, and failed")
    assert again.in_vain(log.events(), "k.0") and not again.in_vain(log.events(), "k.1")
    log.append("restored", step="12.0", path=f"{path}/../0001")
    assert diary.lives(path) == 2


def test_set_aside_and_removed(tmp_path: Path) -> None:
    """Its name is free for another, which is not set aside."""
    first, second = write(tmp_path), write(tmp_path)
    image.set_aside(second, "why")
    assert image.resolve(first.parent) == first
    assert image.resolve(second) == second
    image.set_aside(first, "why not")
    with pytest.raises(ImageError, match="set aside: why: name it itself"):
        image.resolve(first.parent)
    removal.remove(second)
    assert write(tmp_path) == second
    assert image.aside(second) == ""
