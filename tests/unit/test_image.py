# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints on disk: whole or not there, and nobody else's."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pycr.errors import AccessDenied, Busy, DirectoryError, ImageError, PycrError
from pycr.images import image, late, manifest, removal
from pycr.images.requeue import read_requeue, write_requeue
from pycr.images.writer import Writer
from pycr.slurm import BATCH
from tests.unit.test_manifest import BATCH_PART, made


def write(directory: Path, text: bytes = b"abc") -> Path:
    """Make a generation of one task with one file."""
    writer = Writer(directory, 12, 0)
    writer.add_tasks(1)
    (writer.path / "task.0" / "core-1.img").write_bytes(text)
    descriptor = os.open(writer.path / "task.0", os.O_RDONLY)
    files = {name: (size, digest) for name, size, digest in image.seal_task(descriptor)}
    os.close(descriptor)
    wanted = made(1, writer.generation)
    done = writer.commit(wanted._replace(tasks=[wanted.tasks[0]._replace(files=files)]))
    writer.close()
    return done


def modes(top: Path) -> set[tuple[str, int]]:
    return {
        ("d" if path.is_dir() else "f", stat.S_IMODE(path.stat().st_mode))
        for path in top.rglob("*")
    }


# ---- writing ------------------------------------------------------------------------------------


def test_committed_generation_is_whole_and_private(tmp_path: Path) -> None:
    old = os.umask(0o077)  # as the helper's
    try:
        path = write(tmp_path)
    finally:
        os.umask(old)
    assert path == tmp_path / "12.0" / "0001"
    assert modes(tmp_path) == {("d", 0o700), ("f", 0o600)}
    assert sorted(each.name for each in path.parent.iterdir()) == [".lock", "0001"]
    found = image.load(path)
    assert found.generation == 1
    os.close(image.check_task(path, found.tasks[0]))
    assert [path.name for path in image.generations(path.parent)] == ["0001"]


def test_manifest_and_directories_are_private_under_any_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        path = write(tmp_path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for name in ("manifest.json", "../.lock"):
        assert stat.S_IMODE((path / name).stat().st_mode) == 0o600


def test_generations_count_on_and_the_newest_is_meant(tmp_path: Path) -> None:
    paths = [write(tmp_path) for _ in range(3)]
    assert [path.name for path in paths] == ["0001", "0002", "0003"]
    assert image.generations(tmp_path / "12.0") == paths[::-1]
    assert image.resolve(tmp_path / "12.0") == paths[2]
    assert image.resolve(paths[0]) == paths[0]
    (tmp_path / "12.0" / "0009").mkdir()  # no manifest: no generation, but its number is taken
    assert write(tmp_path).name == "0010"


def test_nothing_is_to_be_seen_before_the_commit(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 12, 0)
    writer.add_tasks(2)
    assert image.generations(tmp_path / "12.0") == []
    with pytest.raises(ImageError, match=r"only the remains of one \(\.new-0001-"):
        image.resolve(tmp_path / "12.0")
    with pytest.raises(ImageError, match="remains"):
        image.resolve(writer.path)
    assert sorted(path.name for path in writer.path.iterdir()) == ["task.0", "task.1"]
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_written_manifest_without_the_rename_is_no_generation(tmp_path: Path) -> None:
    path = write(tmp_path)
    half = path.rename(path.with_name(".new-0001-5f1c9a70"))
    with pytest.raises(ImageError, match="remains"):
        image.resolve(half)
    with pytest.raises(ImageError, match="remains"):
        image.resolve(half.parent)


def test_abandon_keeps_what_was_there(tmp_path: Path) -> None:
    path = write(tmp_path)
    writer = Writer(tmp_path, 12, 0)
    writer.add_tasks(1)
    (writer.path / "task.0" / "x").write_text("x")
    writer.abandon()
    assert sorted(each.name for each in path.parent.iterdir()) == [".lock", "0001"]


def test_remains_of_crashed_writers_are_swept(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    step = tmp_path / "12.0"
    (step / ".new-0001-00000000" / "task.0").mkdir(parents=True)
    (step / ".new-0001-00000000" / "task.0" / "pages-1.img").write_text("x")
    (step / ".new-0001-00000000" / "link").symlink_to(outside)
    (step / ".new-link").symlink_to(outside)
    step.chmod(0o700)
    assert write(tmp_path).name == "0001"
    assert not (step / ".new-0001-00000000").exists()
    assert (outside / "file").read_text() == "x"


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 12, 0)
    with pytest.raises(Busy, match=r"12\.0: a checkpoint of it is under way"):
        Writer(tmp_path, 12, 0)
    with pytest.raises(Busy):
        removal.remove(tmp_path / "12.0")
    assert writer.path.is_dir()
    Writer(tmp_path, 12, 1).abandon()
    writer.abandon()
    write(tmp_path)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    write(tmp_path)
    Writer(tmp_path, 12, 0).abandon()
    (tmp_path / "13.0").symlink_to(tmp_path)
    with pytest.raises(PycrError):
        Writer(tmp_path, 13, 0)
    holder = Writer(tmp_path, 12, 0)
    with pytest.raises(Busy):
        Writer(tmp_path, 12, 0)
    holder.abandon()
    image.load(tmp_path / "12.0" / "0001")
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["12.0", "12.0/.lock"])
def test_links_are_not_followed(tmp_path: Path, name: str) -> None:
    target = tmp_path / "target"
    if "/" in name:
        (tmp_path / "12.0").mkdir(mode=0o700)
        target.write_text("x")
    else:
        target.mkdir(mode=0o700)
    (tmp_path / name).symlink_to(target)
    with pytest.raises(DirectoryError):
        Writer(tmp_path, 12, 0)
    assert target.is_file() or list(target.iterdir()) == []


def test_directory_that_others_may_write(tmp_path: Path) -> None:
    (tmp_path / "12.0").mkdir()
    (tmp_path / "12.0").chmod(0o770)
    with pytest.raises(AccessDenied, match="writable by others"):
        Writer(tmp_path, 12, 0)


def test_directory_that_is_missing_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name, why in (("missing", "No such file"), ("file", "Not a directory")):
        with pytest.raises(DirectoryError, match=why):
            Writer(tmp_path / name, 12, 0)


# ---- reading ------------------------------------------------------------------------------------


def test_steps_in_order(tmp_path: Path) -> None:
    for name in ("9.0", "10.2", "10.10", "x", "1.2.3", ".1.0", "1.0.tmp"):
        (tmp_path / name).mkdir()
    assert [path.name for path in image.steps(tmp_path)] == ["9.0", "10.2", "10.10"]
    assert image.steps(tmp_path / "missing") == []


def test_resolve_says_what_to_name(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ImageError, match=r"name a step in it, for example .*/12\.0"):
        image.resolve(tmp_path)
    with pytest.raises(ImageError, match="No such file or directory"):
        image.resolve(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"no whole checkpoint in it$"):
        image.resolve(tmp_path / "empty")


def shorten(path: Path) -> None:
    os.truncate(path, 2)


def lengthen(path: Path) -> None:
    os.truncate(path, 4)


def link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to("../elsewhere")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def add(path: Path) -> None:
    path.with_name("core-2.img").write_bytes(b"")


DAMAGES = [shorten, lengthen, Path.unlink, link, fifo, directory, add]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda each: each.__name__)
def test_damaged_file(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = write(tmp_path)
    damage(path / "task.0" / "core-1.img")
    with pytest.raises(ImageError, match=r"12\.0/0001/task\.0/core-[12]\.img: "):
        image.check_task(path, image.load(path).tasks[0])


def test_changed_byte(tmp_path: Path) -> None:
    path = write(tmp_path)
    (path / "task.0" / "core-1.img").write_bytes(b"abd")
    task = image.load(path).tasks[0]
    opened = image.check_task(path, task)
    with pytest.raises(ImageError, match=r"core-1\.img: changed: its checksum"):
        image.check_sums(opened, path / "task.0", task)
    os.close(opened)


def test_large_file_is_read_whole(tmp_path: Path) -> None:
    text = os.urandom(1 << 20) * 3 + b"end"
    path = write(tmp_path, text)
    task = image.load(path).tasks[0]
    opened = image.check_task(path, task)
    image.check_sums(opened, path / "task.0", task)
    with (path / "task.0" / "core-1.img").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"D")
    with pytest.raises(ImageError, match="checksum"):
        image.check_sums(opened, path / "task.0", task)
    os.close(opened)


def test_generation_that_is_a_link_or_writable_by_others(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ImageError):
        image.load(tmp_path / "link")
    path.chmod(0o777)
    with pytest.raises(AccessDenied, match="writable by others"):
        image.load(path)


def test_manifest_that_is_a_link_or_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    monkeypatch.setattr(image, "MAX_MANIFEST", 100)
    with pytest.raises(ImageError, match="larger than 100 bytes"):
        image.load(path)
    (path / "manifest.json").rename(path / "else")
    (path / "manifest.json").symlink_to("else")
    with pytest.raises(ImageError, match="symbolic links"):
        image.load(path)


def test_remove(tmp_path: Path) -> None:
    paths = [write(tmp_path) for _ in range(3)]
    removal.remove(paths[1])
    assert image.generations(tmp_path / "12.0") == [paths[2], paths[0]]
    removal.remove(tmp_path / "12.0")
    assert list(tmp_path.iterdir()) == []


def test_only_checkpoints_are_removed(tmp_path: Path) -> None:
    (tmp_path / "12.0").symlink_to(tmp_path)
    (tmp_path / "work").mkdir()
    for name in ("12.0", "work", "missing", "13.0", "13.batch", "12.extern", "."):
        with pytest.raises(ImageError):
            removal.check_removable(tmp_path / name)


# ---- a batch script's generation ----------------------------------------------------------------


def write_job(directory: Path, names: Sequence[str] = ("12.0", "12.3")) -> Path:
    """Make a generation of a batch script, with steps in it."""
    writer = Writer(directory, 12, BATCH)
    writer.add_tasks(1)
    for name in names:
        part = writer.part(name)
        part.add_tasks(2)
        assert part.final == writer.final / name
        assert part.commit(made(2)._replace(step_id=int(name.partition(".")[2]))) == part.final
        part.close()
    batch = {**BATCH_PART, "steps": list(names)}
    wanted = made(1, writer.generation)._replace(step_id=BATCH, batch=batch)
    done = writer.commit(wanted)
    writer.close()
    return done


def test_a_whole_job(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        path = write_job(tmp_path)
    finally:
        os.umask(old)
    assert path == tmp_path / "12.batch" / "0001"
    assert modes(tmp_path) == {("d", 0o700), ("f", 0o600)}
    found = image.load(path)
    assert found.batch["steps"] == ["12.0", "12.3"]
    assert image.resolve(path / "12.0") == path / "12.0"
    assert image.steps(tmp_path) == [tmp_path / "12.batch"]


def test_all_of_a_job_is_read_or_none(tmp_path: Path) -> None:
    path = write_job(tmp_path)
    assert [each.step_id for each in image.load_all(path)] == [BATCH, 0, 3]
    assert [each.step_id for each in image.load_all(write(tmp_path))] == [0]
    (path / "12.3" / "manifest.json").unlink()
    with pytest.raises(ImageError, match=r"12\.batch/0001/12\.3/manifest\.json: No such file"):
        image.load_all(path)


def test_jobs_come_before_their_steps(tmp_path: Path) -> None:
    for name in ("12.1", "12.batch", "12.0", "9.3", "9.batch", "x.batch", "12.batchx"):
        (tmp_path / name).mkdir()
    assert [path.name for path in image.steps(tmp_path)] == [
        *("9.batch", "9.3", "12.batch", "12.0", "12.1")
    ]


def test_nothing_of_a_job_is_to_be_seen_before_the_commit(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 12, BATCH)
    part = writer.part("12.0")
    part.add_tasks(1)
    part.commit(made(1))
    assert image.generations(tmp_path / "12.batch") == []
    with pytest.raises(ImageError, match="only the remains of one"):
        image.resolve(tmp_path / "12.batch")
    part.close()
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_abandoned_and_begun_anew(tmp_path: Path) -> None:
    """As when a step has ended, or another begun, before the script stood still."""
    before = sorted(os.listdir("/proc/self/fd"))
    writer = Writer(tmp_path, 12, BATCH)
    part = writer.part("12.0")
    part.add_tasks(1)
    (part.path / "task.0" / "core-1.img").write_text("x")
    part.abandon()
    part.abandon()  # as step.py may, after an error
    assert list(writer.path.iterdir()) == []
    first = writer.part("12.0")
    first.add_tasks(3)
    second = writer.part("12.0")  # in place of the one that was begun before
    second.add_tasks(1)
    assert [path.name for path in (writer.path / "12.0").iterdir()] == ["task.0"]
    for each in (first, second):
        each.close()
    writer.abandon()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == []


def test_a_committed_job_can_still_be_taken_back(tmp_path: Path) -> None:
    """What fails behind the commit (`pycr requeue` with no place for its file) leaves no trace."""
    writer = Writer(tmp_path, 12, BATCH)
    writer.add_tasks(1)
    path = writer.commit(made(1)._replace(step_id=BATCH, batch=BATCH_PART))
    assert image.load(path)
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_part_is_not_removed_alone(tmp_path: Path) -> None:
    """Its batch script's generation could not be restored without it."""
    path = write_job(tmp_path)
    with pytest.raises(ImageError, match=r"12\.0: a part of the batch job's checkpoint .*/0001$"):
        removal.check_removable(path / "12.0")
    removal.check_removable(path)
    removal.check_removable(path.parent)
    removal.remove(path)
    assert not (tmp_path / "12.batch").exists()


def test_a_step_beside_some_manifest_is_removed(tmp_path: Path) -> None:
    """Many programs have a manifest.json."""
    write(tmp_path)
    (tmp_path / "manifest.json").touch()
    removal.check_removable(tmp_path / "12.0")


# ---- late output --------------------------------------------------------------------------------


def test_late_output_comes_back(tmp_path: Path) -> None:
    streams = {1: b"out\n\0\xff", 2: os.urandom(200_000)}
    late.write(str(tmp_path), 4711, streams)
    assert late.read(str(tmp_path), 4711) == streams
    assert modes(tmp_path) == {("d", 0o700), ("f", 0o600)}
    assert late.read(str(tmp_path), 4712) == {}
    late.write(str(tmp_path), 4711, {1: b"other"})
    assert late.read(str(tmp_path), 4711) == {1: b"other"}
    late.write(str(tmp_path), 4711, {})
    assert late.read(str(tmp_path), 4711) == {}
    assert list((tmp_path / "late").iterdir()) == []


def test_no_late_output_leaves_no_directory(tmp_path: Path) -> None:
    late.write(str(tmp_path), 4711, {})
    assert list(tmp_path.iterdir()) == []
    assert late.read(str(tmp_path), 4711) == {}


def test_late_output_that_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        late.write(str(tmp_path / "missing"), 4711, {1: b"x"})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"eHh4", b"eHh5"))


def other(text: bytes) -> Callable[[Path], None]:
    def write_other(path: Path) -> None:
        path.write_bytes(manifest.seal(text))

    return write_other


LATE_DAMAGES = {
    "cut": cut,
    "changed": change,
    "empty": lambda path: path.write_bytes(b""),
    "link": link,
    "fifo": fifo,
    "directory": directory,
    "list": other(b"[]"),
    "text": other(b'{"1": 7}'),
    "no base64": other(b'{"1": "eHh"}'),
    "no number": other(b'{"x": "eHh4"}'),
    "deep": other(b"[" * 200_000),
    "not UTF-8": other(b"\xff"),
}


@pytest.mark.parametrize("name", LATE_DAMAGES)
def test_damaged_late_output_is_none(tmp_path: Path, name: str) -> None:
    """A restored script is running already, and goes on without it."""
    late.write(str(tmp_path), 4711, {1: b"xxx"})
    path = tmp_path / "late" / "4711"
    assert b"eHh4" in path.read_bytes()
    LATE_DAMAGES[name](path)
    assert late.read(str(tmp_path), 4711) == {}


# ---- the requeue file ---------------------------------------------------------------------------


def test_requeue_file(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        path = write_requeue(tmp_path, 12, Path("/images/12.batch/0001"))
    finally:
        os.umask(old)
    assert path == tmp_path / "12.batch" / "requeue"
    assert path.read_bytes() == b"/images/12.batch/0001\n"
    assert modes(tmp_path) == {("d", 0o700), ("f", 0o600)}
    write_requeue(tmp_path, 12, Path("/images/12.batch/0002"))
    assert path.read_bytes() == b"/images/12.batch/0002\n"
    assert [each.name for each in path.parent.iterdir()] == ["requeue"]


def test_requeue_file_is_there_or_not_but_never_half(tmp_path: Path) -> None:
    """Whoever has the old one open goes on reading the old one."""
    path = write_requeue(tmp_path, 12, Path("/1"))
    with path.open() as file:
        write_requeue(tmp_path, 12, Path("/2"))
        assert file.read() == "/1\n"
    assert path.read_text() == "/2\n"


def test_requeue_file_over_the_remains_of_another(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("x")
    step = tmp_path / "12.batch"
    step.mkdir(0o700)
    (step / f"requeue.{os.getpid()}").symlink_to(outside)
    (step / "requeue").symlink_to(outside)
    path = write_requeue(tmp_path, 12, Path("/1"))
    assert not path.is_symlink()
    assert path.read_text() == "/1\n"
    assert outside.read_text() == "x"


def test_requeue_file_in_a_directory_that_others_may_write(tmp_path: Path) -> None:
    (tmp_path / "12.batch").mkdir()
    (tmp_path / "12.batch").chmod(0o777)
    with pytest.raises(AccessDenied, match="writable by others"):
        write_requeue(tmp_path, 12, Path("/1"))
    (tmp_path / "file").touch()
    with pytest.raises(DirectoryError, match=r"/12\.batch/requeue: Not a directory"):
        write_requeue(tmp_path / "file", 12, Path("/1"))
    assert write_requeue(tmp_path / "missing", 12, Path("/1")).is_file()


def test_whether_a_generation_is_to_be_requeued_from(tmp_path: Path) -> None:
    """`pycr rm` asks, so that it says so before it removes it."""
    path = write_job(tmp_path)
    assert read_requeue(tmp_path, 12) is None
    write_requeue(tmp_path, 12, path)
    assert read_requeue(tmp_path, 12) == path
    assert read_requeue(tmp_path, 13) is None


def test_a_generation_is_removed_with_its_jobs_requeue_file(tmp_path: Path) -> None:
    """It would else lead a job that Slurm starts again to what is no more."""
    path = write_job(tmp_path)
    write_requeue(tmp_path, 12, path)
    removal.remove(path)
    assert list(tmp_path.iterdir()) == []


def test_ruins_are_listed_where_that_is_asked(tmp_path: Path) -> None:
    """What was set aside and has lost its manifest is no generation, but there to be seen."""
    step = tmp_path / "12.0"
    for name in ("0001", "0002", "0003"):
        (step / name).mkdir(parents=True)
    (step / "0001" / image.MANIFEST).touch()
    image.set_aside(step / "0003", "half of it is gone")
    assert [path.name for path in image.generations(step)] == ["0001"]
    assert [path.name for path in image.generations(step, ruins=True)] == ["0003", "0001"]
