# SPDX-License-Identifier: GPL-2.0-or-later
"""A task's files: what is noted of them, what has become of them, and what follows from that."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pycr.engine import elf
from pycr.engine import files as engine
from pycr.errors import ImageError, RestoreFailed
from pycr.images import image
from pycr.pod import files
from pycr.pod.meeting import Place

HOLDS = """
import mmap, os, sys
names = sys.argv[1:]
log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
out = os.open("out", os.O_RDWR | os.O_CREAT)
source = os.open("source", os.O_RDONLY)
also = os.open("out", os.O_RDONLY)
table = os.open("table", os.O_RDWR)
memory = mmap.mmap(table, 4096)
os.close(table)
gone = os.open("gone", os.O_RDWR | os.O_CREAT)
os.unlink("gone")
where = os.open("sub", os.O_RDONLY | os.O_DIRECTORY)
null = os.open("/dev/null", os.O_RDWR)
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    (tmp_path / "source").write_text("some input")
    (tmp_path / "table").write_bytes(bytes(4096))
    (tmp_path / "sub").mkdir()
    with open(tmp_path / "err", "w") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDS],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    yield process
    process.communicate()


def test_every_file_once_and_how_it_is_used(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    found = {each.path: each for each in engine.note(holder.pid, (str(tmp_path / "log"),))}
    own = {name.removeprefix(f"{tmp_path}/"): each.use for name, each in found.items()}
    mine = {name: use for name, use in own.items() if not name.startswith("/")}
    assert mine == {
        "out": "write",
        "source": "read",
        "table": "write",
        "sub": "directory",
        "err": "stderr",
    }
    assert own[str(tmp_path)] == "directory"
    assert own[os.path.realpath(sys.executable)] == "program"
    assert not any(path.startswith(("/proc", "/dev")) for path in found)
    libc = next(each for path, each in found.items() if "libc.so" in path)
    assert (libc.use, libc.head) == ("program", "")
    assert len(libc.build_id) == 40
    source = found[str(tmp_path / "source")]
    assert (source.size, source.build_id) == (10, "")
    assert len(source.head) == 64


def noted(path: Path, use: str) -> engine.OpenFile:
    return engine._look(str(path), use)


@pytest.mark.parametrize("use", ["write", "read"])
def test_what_becomes_of_a_file(tmp_path: Path, use: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 20000)
    old = noted(path, use)
    assert engine.compare(old).kind == engine.SAME
    with open(path, "ab") as file:
        file.write(b"more")
    assert engine.compare(old)[:2] == (engine.GROWN, 20004)
    os.truncate(path, 20000)
    assert engine.compare(old).kind == engine.TOUCHED
    os.utime(path, ns=(old.mtime, old.mtime))
    assert engine.compare(old).kind == engine.SAME
    os.truncate(path, 19999)
    assert engine.compare(old)[:2] == (engine.SHORTER, 19999)
    path.write_bytes(b"y" * 20000)
    assert engine.compare(old).kind == engine.OVERWRITTEN
    (tmp_path / "g").write_bytes(b"z" * 20000)
    (tmp_path / "g").rename(path)
    assert engine.compare(old).kind == engine.REPLACED
    (tmp_path / "g").write_bytes(b"x" * 20000)  # a copy of it is as good as it was
    (tmp_path / "g").rename(path)
    assert engine.compare(old).kind == engine.TOUCHED
    os.utime(path, ns=(old.mtime, old.mtime))
    path.chmod(0o640)
    assert engine.compare(old).kind == engine.MODE
    path.unlink()
    assert engine.compare(old)[:2] == (engine.MISSING, -1)
    path.mkdir()
    assert engine.compare(old).kind == engine.OTHER


def test_a_program_is_known_by_its_build_id(tmp_path: Path) -> None:
    copy = tmp_path / "program"
    copy.write_bytes(Path("/bin/sh").read_bytes())
    old = noted(copy, "program")
    copy.write_bytes(Path("/bin/ls").read_bytes())
    change = engine.compare(old)
    assert change.kind == engine.REBUILT
    assert change.why == f"it was built anew (build id {old.build_id[:12]} then," + (
        f" {noted(copy, 'program').build_id[:12]} now)"
    )
    copy.write_bytes(b"#!/bin/sh\n")
    assert "none now" in engine.compare(old).why


@pytest.mark.parametrize(
    ("use", "kind", "policy", "action"),
    [
        ("write", engine.SAME, files.CUT, files.OK),
        ("write", engine.GROWN, files.CUT, files.CUT),
        ("write", engine.GROWN, files.KEEP, files.TAKE),
        ("write", engine.GROWN, files.REFUSE, files.REFUSE),
        ("read", engine.GROWN, files.CUT, files.TAKE),
        ("read", engine.GROWN, files.REFUSE, files.REFUSE),
        ("program", engine.GROWN, files.KEEP, files.REFUSE),
        ("program", engine.REBUILT, files.KEEP, files.REFUSE),
        ("program", engine.TOUCHED, files.REFUSE, files.OK),
        ("write", engine.SHORTER, files.CUT, files.REFUSE),
        ("write", engine.SHORTER, files.KEEP, files.TAKE),
        ("write", engine.OVERWRITTEN, files.CUT, files.OK),
        ("read", engine.OVERWRITTEN, files.CUT, files.REFUSE),
        ("read", engine.OVERWRITTEN, files.KEEP, files.TAKE),
        ("write", engine.REPLACED, files.CUT, files.REFUSE),
        ("write", engine.TOUCHED, files.CUT, files.OK),
        ("write", engine.TOUCHED, files.REFUSE, files.REFUSE),
        ("read", engine.TOUCHED, files.REFUSE, files.OK),
        ("write", engine.MISSING, files.KEEP, files.REFUSE),
        ("read", engine.FORBIDDEN, files.KEEP, files.REFUSE),
        ("write", engine.OTHER, files.KEEP, files.REFUSE),
        ("read", engine.MODE, files.CUT, files.TAKE),
        ("directory", engine.MISSING, files.CUT, files.REFUSE),
        ("directory", engine.MODE, files.CUT, files.TAKE),
        ("stdout", engine.MISSING, files.REFUSE, files.OK),
    ],
)
def test_what_follows(use: str, kind: str, policy: str, action: str) -> None:
    file = engine.OpenFile("/f", use, 10, 0o100644, 1, 1, "", "")
    size = {engine.GROWN: 20, engine.SHORTER: 5}.get(kind, 10)
    made = files.decide(file, engine.Change(kind, size, "it changed"), policy)
    assert made.action == action
    if action == files.REFUSE:
        assert "it changed" in made.why


def test_an_overwritten_head_of_what_has_grown_is_cut_and_told() -> None:
    file = engine.OpenFile("/f", "write", 10, 0o100644, 1, 1, "", "")
    made = files.decide(file, engine.Change(engine.OVERWRITTEN, 20, "so"), files.CUT)
    assert made.action == files.CUT
    assert made.why == "so: what was overwritten is not in the checkpoint"


GOOD: dict[str, Any] = {
    "path": "/f",
    "use": "write",
    "size": 1,
    "mode": 1,
    "inode": 1,
    "mtime": 1,
    "build_id": "",
    "head": "",
}


@pytest.mark.parametrize(
    "rows",
    [
        "{",
        "7",
        "[7]",
        "[[]]",
        "[" * 100000,
        *(
            json.dumps([{**GOOD, **change}])
            for change in (
                {"path": "f"},
                {"path": "/a\0b"},
                {"path": 7},
                {"use": "eat"},
                {"size": -1},
                {"size": 1.5},
                {"size": True},
                {"mode": None},
                {"mtime": 1 << 70},
                {"more": 1},
            )
        ),
        json.dumps([{"path": "/f"}]),
    ],
)
def test_a_damaged_list_is_refused(tmp_path: Path, rows: str) -> None:
    (tmp_path / image.FILES).write_text(rows)
    directory = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(ImageError, match=r"files\.json: damaged: "):
        files.load(directory, tmp_path)
    os.close(directory)


def test_a_list_comes_back_as_it_was(tmp_path: Path) -> None:
    rows = [engine.OpenFile(os.fsdecode(b"/caf\xe9"), "read", 1 << 40, 33188, 5, -7, "", "a" * 64)]
    files.save(tmp_path, rows)
    directory = os.open(tmp_path, os.O_RDONLY)
    assert files.load(directory, tmp_path) == rows
    os.close(directory)


class Restart:
    """A task's directory with a list of files, and its Files."""

    def __init__(self, tmp_path: Path, *names: str) -> None:
        self.generation = tmp_path / "12.0" / "0001"
        self.where = self.generation / "task.0"
        self.where.mkdir(parents=True)
        self.paths = [tmp_path / name for name in names]
        for path in self.paths:
            path.write_text("then")
        files.save(self.where, [noted(path, "write") for path in self.paths])
        for path in self.paths:
            path.write_text("then and since")
        self.images = os.open(self.where, os.O_RDONLY)
        self.files = files.Files(self.generation, Place("14.0", 0, 1), files.CUT)

    def kept(self) -> list[str]:
        return sorted(path.name for path in (self.generation.parent / "cut-14.0").glob("*"))

    def prepare(self) -> None:
        self.files.prepare(self.images, self.where)


def test_cut_and_undone(tmp_path: Path) -> None:
    restart = Restart(tmp_path, "a", "b")
    restart.prepare()
    assert [path.read_text() for path in restart.paths] == ["then", "then"]
    assert restart.kept() == ["task.0", "task.0.a@4", "task.0.b@4"]
    restart.files.undo()
    assert [path.read_text() for path in restart.paths] == ["then and since"] * 2
    assert not (restart.generation.parent / "cut-14.0").exists()


def test_what_was_written_after_the_cut_is_not_touched(tmp_path: Path) -> None:
    restart = Restart(tmp_path, "a")
    restart.prepare()
    restart.paths[0].write_text("then otherwise")
    restart.files.undo()
    assert restart.paths[0].read_text() == "then otherwise"
    assert restart.kept() == ["task.0", "task.0.a@4"]


def test_cut_twice_keeps_both(tmp_path: Path) -> None:
    restart = Restart(tmp_path, "a")
    restart.prepare()
    assert len(restart.files.restored()) == 1
    restart.paths[0].write_text("then and again")
    restart.prepare()
    assert restart.kept() == ["task.0", "task.0.a@4", "task.0.a@4.2"]


def test_nothing_is_cut_that_cannot_be_kept(tmp_path: Path) -> None:
    restart = Restart(tmp_path, "a")
    (restart.generation.parent / "cut-14.0").symlink_to(tmp_path)
    with pytest.raises(RestoreFailed, match="cut-14"):
        restart.prepare()
    assert restart.paths[0].read_text() == "then and since"
    assert not list(tmp_path.glob("task.0*"))


def test_a_name_may_be_long_and_odd(tmp_path: Path) -> None:
    names = [b"n" * 255, "\u0436".encode() * 127, b"new\nline \xff (deleted)"]
    restart = Restart(tmp_path, *map(os.fsdecode, names))
    restart.prepare()
    assert [path.read_text() for path in restart.paths] == ["then"] * 3
    assert len(restart.kept()) == 4
    restart.files.undo()
    assert [path.read_text() for path in restart.paths] == ["then and since"] * 3


def test_holes_are_kept_as_holes(tmp_path: Path) -> None:
    restart = Restart(tmp_path, "a")
    with restart.paths[0].open("r+b") as file:
        file.seek(1 << 36)
        file.write(b"far")
        file.truncate(1 << 37)
    restart.prepare()
    assert restart.paths[0].read_text() == "then"
    kept = restart.generation.parent / "cut-14.0/task.0.a@4"
    assert (kept.stat().st_size, kept.stat().st_blocks < 1024) == ((1 << 37) - 4, True)
    restart.files.undo()
    with restart.paths[0].open("rb") as file:
        assert file.read(15) == b"then and since\0"
        file.seek(1 << 36)
        assert file.read(4) == b"far\0"
    assert restart.paths[0].stat().st_size == 1 << 37
    assert restart.paths[0].stat().st_blocks < 1024


def test_nothing_is_left_of_a_copy_that_did_not_fit(tmp_path: Path) -> None:
    restart = Restart(tmp_path, "a", "b")
    restart.paths[1].write_bytes(b"then" + bytes(range(256)) * 64)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # EFBIG, for a full disk
    try:
        with pytest.raises(RestoreFailed, match=r"b: couldn't keep .* byte 4: .*--files=keep"):
            restart.prepare()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert restart.paths[0].read_text() == "then and since"
    assert restart.paths[1].stat().st_size == 4 + 256 * 64
    assert not (restart.generation.parent / "cut-14.0").exists()


def test_tasks_that_cut_the_same_file_at_once_lose_nothing(tmp_path: Path) -> None:
    restart = Restart(tmp_path, "a")
    since = os.urandom(8 << 20)
    for _ in range(4):
        restart.paths[0].write_bytes(b"then" + since)
        each = [files.Files(restart.generation, Place("14.0", n, 4), files.CUT) for n in range(4)]
        threads = [
            threading.Thread(target=one.cut, args=(str(restart.paths[0]), 4)) for one in each
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert restart.paths[0].read_text() == "then"
        cuts = [cut for one in each for cut in one.cuts]
        assert cuts and all(cut.kept.read_bytes() == since for cut in cuts)
        assert len(restart.kept()) == 2 * len(cuts)
        for one in reversed(each):
            one.undo()
        assert restart.paths[0].read_bytes() == b"then" + since
        for path in (restart.generation.parent / "cut-14.0").glob("*"):
            path.unlink()


@pytest.mark.parametrize("path", ["/etc/passwd", "/dev/null", "/"])
def test_what_is_no_program_has_no_build_id(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert elf.build_id(descriptor) == ""
    except IsADirectoryError:
        assert path == "/"
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("cut", [*range(1, 64, 7), 64, 100, 400, 1000])
def test_a_truncated_program_has_no_build_id(tmp_path: Path, cut: int) -> None:
    (tmp_path / "program").write_bytes(Path("/bin/sh").read_bytes()[:cut])
    descriptor = os.open(tmp_path / "program", os.O_RDONLY)
    found = elf.build_id(descriptor)
    os.close(descriptor)
    # The note may be whole where the program is not.
    assert found in ("", noted(Path("/bin/sh"), "program").build_id)
