# SPDX-License-Identifier: GPL-2.0-or-later
"""A manifest written to harm who reads it: one line, a status, little time and memory."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pycr.images.manifest import seal
from tests.login import Login
from tests.slurm import forge

# What a command may take: KiB of address space, and seconds of a CPU.
LIMITS = f"ulimit -v {700 << 10} && ulimit -t 20"


@pytest.fixture(scope="module")
def kept() -> dict[str, bytes]:
    return {}


@pytest.fixture
def generation(alice: Login, kept: dict[str, bytes]) -> Path:
    """A generation with one small task; its manifest is of a real one."""
    if not kept:
        _, real = forge.vacated(alice, "sleep", "100")
        for path in (real / "task.0").iterdir():
            kept[path.name] = path.read_bytes()
        kept["manifest.json"] = (real / "manifest.json").read_bytes()
    place = alice.place / "9.0/0001/task.0"
    place.mkdir(parents=True)
    for name, data in kept.items():
        (place / name).write_bytes(data)
    (place / "manifest.json").rename(place.parent / "manifest.json")
    alice.cluster.node("n0").run(["chown", "-R", "alice:alice", f"{alice.dir}/9.0"], check=True)
    for each in (place, place.parent, place.parent.parent):
        each.chmod(0o700)
    return place.parent


def body(generation: Path) -> Any:
    return json.loads((generation / "manifest.json").read_bytes())["manifest"]


def put(*path: str | int, value: Any) -> Callable[[Any], bytes]:
    def change(manifest: Any) -> bytes:
        at = manifest
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value
        return json.dumps(manifest).encode()

    return change


def text(old: str, new: str) -> Callable[[Any], bytes]:
    return lambda manifest: json.dumps(manifest).replace(old, new, 1).encode()


TASK = ("tasks", 0)
EVIL: dict[str, Callable[[Any], bytes]] = {
    "file above": put(*TASK, "files", value={"../../../../etc/shadow": [1, "0" * 64]}),
    "absolute file": put(*TASK, "files", value={"/etc/shadow": [1, "0" * 64]}),
    "file with a NUL": put(*TASK, "files", value={"a\0b": [1, "0" * 64]}),
    "hidden file": put(*TASK, "files", value={".lock": [1, "0" * 64]}),
    "size of 2^63": put(*TASK, "files", "inventory.img", value=[1 << 63, "0" * 64]),
    "negative size": put(*TASK, "files", "inventory.img", value=[-1, "0" * 64]),
    "task above": put(*TASK, "task_id", value="../../x"),
    "task 10^9": put(*TASK, "task_id", value=10**9),
    "no tasks": put("tasks", value=[]),
    "tasks as a number": put("tasks", value=10**9),
    "tasks as nulls": put("tasks", value=[None] * 100_000),
    "2 million tasks": lambda manifest: b'{"tasks": [' + b"0," * 2_000_000 + b"0]}",
    "NaN": text('"created": ', '"created": NaN, "x": '),
    "Infinity": text('"created": ', '"created": Infinity, "x": '),
    "1e999": text('"created": ', '"created": 1e999, "x": '),
    "a long number": lambda manifest: b'{"format": ' + b"9" * 1_000_000 + b"}",
    "another format": put("format", value=10**9),
    "nesting": lambda manifest: b"[" * 1_000_000 + b"]" * 1_000_000,
    "nested objects": lambda manifest: b'{"a":' * 500_000 + b"1" + b"}" * 500_000,
    "said twice": text('"uid": ', '"uid": 0, "uid": "x", "y": '),
    "another's uid": put("uid", value=0),
    "uid as a text": put("uid", value="1001"),
    "uid as true": put("uid", value=True),
    "nodes as a text": put("geometry", "nodes", value="many"),
    "nodes 2^40": put("geometry", "nodes", value=1 << 40),
    "no object": lambda manifest: b"[]",
    "not UTF-8": lambda manifest: b'{"\xff\xfe": 1}',
    "streams": put(*TASK, "streams", value=[{"fd": 0, "kind": "file", "name": "/etc/shadow"}]),
    "pids": put(*TASK, "pids", value=[-1]),
    "batch step above": put("batch", value={
        "script": "/x", "offset": 0, "work_dir": "/", "nodelist": "", "home": "/",
        "steps": ["../../9.0"],
    }),
}  # fmt: skip


def read_all(user: Login) -> None:
    """Have every verb read it: each says one line, in little time and memory."""
    for verb, status in (("show", {10}), ("restart", {4, 10}), ("ls", {0})):
        place = "9.0" if verb == "ls" else "9.0/0001"
        done = user.sh(f"{LIMITS}; exec pycr {verb} {place}")
        assert done.returncode in status, (verb, done.stderr)
        told = done.stderr if verb != "ls" else done.stdout.split("\n", 1)[1]
        assert len(told.splitlines()) == 1, told
        assert "fault of pycr's own" not in told
        assert len(told) < 500
    done = user.sh(f"{LIMITS}; exec pycr rm 9.0/0001")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("evil", EVIL)
def test_manifest(alice: Login, generation: Path, evil: str) -> None:
    (generation / "manifest.json").write_bytes(seal(EVIL[evil](body(generation))))
    if evil == "another's uid":
        done = alice.pycr("restart", "9.0/0001")
        assert (done.returncode, done.stdout) == (4, "")
        return
    read_all(alice)


def test_300_megabytes(alice: Login, generation: Path) -> None:
    os.truncate(generation / "manifest.json", 300 << 20)
    read_all(alice)


def test_a_fifo_for_a_manifest(alice: Login, generation: Path) -> None:
    (generation / "manifest.json").unlink()
    os.mkfifo(generation / "manifest.json", 0o666)
    for verb, status in (("show", 10), ("restart", 10)):
        done = alice.pycr(verb, "9.0/0001")
        assert done.returncode == status, done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert alice.pycr("rm", "9.0/0001").returncode == 0


def test_links_swapped_in_while_it_is_read_and_removed(alice: Login, generation: Path) -> None:
    """What they lead to is neither changed nor removed, and nothing hangs."""
    victim = alice.place / "victim"
    (victim / "task.0").mkdir(parents=True)
    (victim / "task.0/kept").write_text("kept")
    (victim / "kept").write_text("kept")
    step, task = generation.parent, generation / "task.0"
    done = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not done.is_set():
            for path, target in (
                (task, victim / "task.0"),
                (generation, victim),
                (step / ".lock", victim / "kept"),
                (generation / "manifest.json", victim / "kept"),
            ):
                with suppress(OSError):
                    aside = path.with_name(f"{path.name}.aside")
                    os.rename(path, aside)
                    path.symlink_to(target)
                    path.unlink()
                    os.mkfifo(path)
                    path.unlink()
                    os.rename(aside, path)
                    swaps += 1

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for verb in ("show", "restart", "ls", "show", "restart", "rm", "rm"):
            place = "." if verb == "ls" else "9.0" if verb == "rm" else "9.0/0001"
            told = alice.pycr(verb, place)
            assert "fault of pycr's own" not in told.stderr, told.stderr
            assert len(told.stderr.splitlines()) <= 2
    finally:
        done.set()
        thread.join()
    assert swaps > 100
    assert (victim / "kept").read_text() == "kept"
    assert (victim / "task.0/kept").read_text() == "kept"
