# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc says of a process tree, of real ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pycr.engine import proc
from pycr.node import task
from tests.login import until

GONE = (1 << 22) + 1  # above any pid_max
TREE = """
import os, subprocess, threading, time
threading.Thread(target=lambda: subprocess.run(["sleep", "60"]), daemon=True).start()
child = subprocess.Popen(["sh", "-c", "sleep 61; true"], start_new_session=True)
zombie = os.fork()
if zombie == 0:
    os._exit(0)
time.sleep(60)
"""


@pytest.fixture
def root() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", TREE], start_new_session=True)
    until("the tree", lambda: len(proc.tree(process.pid)) == 5)
    found = proc.tree(process.pid)
    yield process.pid
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    process.wait()


def test_tree_has_children_of_every_thread_and_zombies(root: int) -> None:
    def names() -> list[str]:
        return sorted(proc.comm(pid) for pid in proc.tree(root)[1:])

    # A shell's child is the shell still, until it has executed its program.
    until("both to sleep", lambda: names()[-3:] == ["sh", "sleep", "sleep"])
    pids = proc.tree(root)
    assert pids[0] == root
    assert len(set(pids)) == 5
    assert set(proc.children(root)) < set(pids)
    assert proc.highest_id(root) >= max(pids)


def test_process_that_is_gone() -> None:
    assert proc.children(GONE) == []
    assert proc.tree(GONE) == [GONE]
    assert proc.highest_id(GONE) == GONE
    assert proc.comm(GONE) == ""
    assert proc.ending(GONE) and not proc.ending(os.getpid())
    assert proc.cmdline(GONE) == []
    assert proc.environ(GONE, "PATH") is None
    assert proc.link(GONE, "exe") == ""
    assert proc.stream(GONE, 0) == proc.Stream(0, "closed", "")


def test_words_and_variables() -> None:
    words = ["sleep", "60", "", "a b", "\udcff"]
    env = {"ONE": "1=1", "ONETWO": "3", "EMPTY": "", "ODD": "\udcfe"}
    code = "import sys, time; print('up', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], env=env, stdout=subprocess.PIPE, cwd="/"
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert proc.cmdline(process.pid)[3:] == words
        assert [proc.environ(process.pid, name) for name in env] == list(env.values())
        assert proc.environ(process.pid, "TWO") is None
        assert proc.environ(process.pid, "ON") is None
        assert proc.link(process.pid, "cwd") == "/"
        assert proc.link(process.pid, "exe") == os.path.realpath(sys.executable)
        process.kill()


def test_streams(tmp_path: Path) -> None:
    out = tmp_path / "out file"
    with (
        out.open("w") as file,
        subprocess.Popen(
            ["sleep", "60"], stdin=subprocess.PIPE, stdout=file, stderr=subprocess.DEVNULL
        ) as process,
    ):
        pipe, to_file, null = proc.streams(process.pid)
        assert (pipe.fd, pipe.kind) == (0, "pipe")
        assert pipe.name.startswith("pipe:[")
        assert pipe.inherit_key == pipe.name
        assert to_file == proc.Stream(1, "file", str(out))
        assert to_file.inherit_key == str(out)[1:]
        assert null == proc.Stream(2, "null", "/dev/null")
        assert null.inherit_key is None
        assert proc.Stream(**to_file.json()) == to_file
        process.kill()


def test_terminal_and_others() -> None:
    master, slave = os.openpty()
    zero = os.open("/dev/zero", os.O_RDONLY)
    with subprocess.Popen(["sleep", "60"], stdin=slave, stdout=zero) as process:
        tty, device, _ = proc.streams(process.pid)
        assert tty.kind == "tty"
        assert tty.inherit_key is None
        assert (device.kind, device.inherit_key) == ("other", None)
        process.kill()
    for fd in (master, slave, zero):
        os.close(fd)


def test_closed_stream() -> None:
    with subprocess.Popen(["sh", "-c", "exec sleep 60 <&-"]) as process:
        until("sleep", lambda: proc.comm(process.pid) == "sleep")
        assert proc.stream(process.pid, 0) == proc.Stream(0, "closed", "")
        process.kill()


def test_strays_that_are_just_ending(tmp_path: Path) -> None:
    """What has ended, or is an srun's child that ends in a moment, is none."""
    name = tmp_path / "srun"
    shutil.copy(shutil.which("sleep") or "", name)
    commands = (["true"], ["sleep", "100"], [str(name), "0.5"])
    started = [subprocess.Popen(each) for each in commands]
    try:
        until("it to end", lambda: not proc.alive(started[0].pid))
        strays = {each.pid for each in started}
        assert task.passing(strays) == {started[1].pid}
    finally:
        for each in started:
            each.kill()
            each.wait()
