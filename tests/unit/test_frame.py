# SPDX-License-Identifier: GPL-2.0-or-later
"""srun_cr's frame and the connection that brings it, without srun."""

from __future__ import annotations

import os
import random
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycr.srun_cr import frames


def frame(nodelist: bytes = b"n[0-3]", length: int | None = None, end: bytes = b"\0") -> bytes:
    size = len(nodelist) if length is None else length
    return struct.pack("=IIi", 12, 3, size) + nodelist + end


@pytest.mark.parametrize("nodelist", ["", "n0", "n[0-3],gpu[1,5-7]", "x" * 32768])
def test_frame(nodelist: str) -> None:
    assert frames.parse_frame(frame(nodelist.encode())) == (12, 3, nodelist)


def test_the_largest_ids() -> None:
    data = struct.pack("=IIi", 0xFFFFFFFF, 0xFFFFFFFE, 2) + b"n0\0"
    assert frames.parse_frame(data) == (0xFFFFFFFF, 0xFFFFFFFE, "n0")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 11,
        b"\0" * 12,
        frame()[:-1],
        frame() + b"\0",
        frame(end=b"x"),
        frame(length=5),
        frame(length=7),
        frame(length=-1),
        frame(length=-(2**31)),
        frame(length=2**31 - 1),
        frame(b"x" * 32769),
        frame(b"n0\0n1"),
        frame(b"n\xff"),
        frame()[::-1],
    ],
)
def test_no_frame(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        frames.parse_frame(data)


def test_random_garbage_raises_nothing_else() -> None:
    source = random.Random(3)
    for _ in range(5000):
        data = bytearray(frame())
        for _ in range(source.randrange(4)):
            data[source.randrange(len(data))] = source.randrange(256)
        try:
            frames.parse_frame(bytes(data[: source.randrange(len(data) + 1)]))
        except ValueError:
            continue


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, frames.Connection]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, frames.Connection(theirs.fileno())


def test_connection_takes_a_frame_byte_by_byte(
    pair: tuple[socket.socket, frames.Connection],
) -> None:
    ours, connection = pair
    for byte in frame():
        ours.send(bytes([byte]))
        assert connection.read() is None
        with pytest.raises(BlockingIOError):
            connection.read()
    ours.shutdown(socket.SHUT_WR)
    assert connection.read() == (12, 3, "n[0-3]")


def test_connection_refuses_before_the_end(
    pair: tuple[socket.socket, frames.Connection],
) -> None:
    """What cannot become a frame any more is not read on and on."""
    ours, connection = pair
    ours.send(struct.pack("=IIi", 1, 2, 32769))
    with pytest.raises(ValueError, match="nodelist of 32769 bytes"):
        connection.read()


def test_connection_refuses_more_than_a_frame(
    pair: tuple[socket.socket, frames.Connection],
) -> None:
    ours, connection = pair
    ours.send(frame() + frame())
    with pytest.raises(ValueError, match="more than a frame"):
        connection.read()


def test_connection_cut_off(pair: tuple[socket.socket, frames.Connection]) -> None:
    ours, connection = pair
    ours.send(frame()[:15])
    assert connection.read() is None
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(ValueError, match="not a frame"):
        connection.read()


def test_connection_that_says_nothing_is_no_fault(
    pair: tuple[socket.socket, frames.Connection],
) -> None:
    """So another wrapper looks whether this one lives (sweep)."""
    ours, connection = pair
    ours.shutdown(socket.SHUT_WR)
    assert connection.read() is None


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(frames, "PLACE", str(tmp_path))
    return tmp_path


def test_listener(place: Path) -> None:
    listener = frames.Listener()
    directory = Path(listener.directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not os.get_inheritable(listener.socket.fileno())
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(listener.path)
        descriptor, uid = listener.accept()
        assert uid == os.geteuid()
        assert not os.get_blocking(descriptor)
        os.close(descriptor)
    with pytest.raises(BlockingIOError):
        listener.accept()
    listener.remove()
    listener.remove()
    assert list(place.iterdir()) == []
    listener.socket.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's connection can only be made by root")
def test_listener_knows_another_user(place: Path) -> None:
    listener = frames.Listener()
    for path in (place, *place.parents[:-1]):
        path.chmod(path.stat().st_mode | 0o011)
    Path(listener.directory).chmod(0o777)
    Path(listener.path).chmod(0o777)
    child = os.fork()
    if child == 0:
        os.setuid(1002)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(listener.path)
            client.recv(1)
        os._exit(0)
    listener.socket.setblocking(True)
    descriptor, uid = listener.accept()
    assert uid == 1002
    os.close(descriptor)
    assert os.waitpid(child, 0)[1] == 0
    listener.remove()
    listener.socket.close()


def test_sweep_removes_the_dead_and_spares_the_living(place: Path) -> None:
    living, dead, own, young = (frames.Listener() for _ in range(4))
    dead.socket.close()
    young.socket.close()  # perhaps it has not come to listen yet
    for each in (living, dead):
        os.utime(each.directory, (0, 0))
    strange = place / "srun_cr.strange"
    strange.mkdir()
    (strange / "file").write_text("x")
    (place / "srun_cr.file").write_text("x")
    (place / "else").mkdir()
    own.sweep()
    left = {path.name for path in place.iterdir()}
    kept = {Path(each.directory).name for each in (living, own, young)}
    assert left == kept | {"srun_cr.strange", "srun_cr.file", "else"}
    for each in (living, own, young):
        each.remove()
        each.socket.close()


def test_sweep_does_not_wait_for_one_that_accepts_nothing(place: Path) -> None:
    stuck, own = frames.Listener(), frames.Listener()
    os.utime(stuck.directory, (0, 0))
    clients = []
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        clients.append(client)
        try:
            client.connect(stuck.path)
        except BlockingIOError:
            break
    pid = os.fork()
    if pid == 0:
        import signal

        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        own.sweep()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, "sweep() hangs"
    assert Path(stuck.path).exists()
    for each in clients:
        each.close()
    for listener in (stuck, own):
        listener.remove()
        listener.socket.close()


def test_nothing_slow_is_imported_on_the_way_to_srun() -> None:
    """20 ms of every `srun --cr`: socket, subprocess, pathlib and the like wait until later."""
    import subprocess

    code = "import sys, pycr.srun_cr; print(*sorted(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-S", "-E", "-c", f"import sys; sys.path.insert(0, '.'); {code}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"socket", "subprocess", "pathlib", "re", "json", "signal", "select"} & set(shown)
