# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints on disk: whole or not there, and nobody else's."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pycr import image
from pycr.errors import AccessDenied, Busy, DirectoryError, ImageError, PycrError
from tests.unit.test_manifest import made


def write(directory: Path, text: bytes = b"abc") -> Path:
    """Make a generation of one task with one file."""
    writer = image.Writer(directory, 12, 0)
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
    writer = image.Writer(tmp_path, 12, 0)
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
    writer = image.Writer(tmp_path, 12, 0)
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
    writer = image.Writer(tmp_path, 12, 0)
    with pytest.raises(Busy, match=r"12\.0: a checkpoint of it is under way"):
        image.Writer(tmp_path, 12, 0)
    with pytest.raises(Busy):
        image.remove(tmp_path / "12.0")
    assert writer.path.is_dir()
    image.Writer(tmp_path, 12, 1).abandon()
    writer.abandon()
    write(tmp_path)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    write(tmp_path)
    image.Writer(tmp_path, 12, 0).abandon()
    (tmp_path / "13.0").symlink_to(tmp_path)
    with pytest.raises(PycrError):
        image.Writer(tmp_path, 13, 0)
    holder = image.Writer(tmp_path, 12, 0)
    with pytest.raises(Busy):
        image.Writer(tmp_path, 12, 0)
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
        image.Writer(tmp_path, 12, 0)
    assert target.is_file() or list(target.iterdir()) == []


def test_directory_that_others_may_write(tmp_path: Path) -> None:
    (tmp_path / "12.0").mkdir()
    (tmp_path / "12.0").chmod(0o770)
    with pytest.raises(AccessDenied, match="writable by others"):
        image.Writer(tmp_path, 12, 0)


def test_directory_that_is_missing_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name, why in (("missing", "No such file"), ("file", "Not a directory")):
        with pytest.raises(DirectoryError, match=why):
            image.Writer(tmp_path / name, 12, 0)


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
    image.remove(paths[1])
    assert image.generations(tmp_path / "12.0") == [paths[2], paths[0]]
    image.remove(tmp_path / "12.0")
    assert list(tmp_path.iterdir()) == []


def test_only_checkpoints_are_removed(tmp_path: Path) -> None:
    (tmp_path / "12.0").symlink_to(tmp_path)
    (tmp_path / "work").mkdir()
    for name in ("12.0", "work", "missing", "13.0", "."):
        with pytest.raises(ImageError):
            image.check_removable(tmp_path / name)
