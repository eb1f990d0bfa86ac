# SPDX-License-Identifier: GPL-2.0-or-later
"""srun_cr's socket: nobody else's, gone however srun_cr ends, and deaf to anything but a frame."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.login import Login, until
from tests.slurm.processes import children, go_on, status

SEND = """
import json, socket, sys
for frame in json.loads(sys.argv[2]):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(sys.argv[1])
    try:
        peer.sendall(bytes.fromhex(frame))
        peer.shutdown(socket.SHUT_WR)
        peer.recv(1)                # until srun_cr has closed it
    except OSError:
        pass                        # dropped already
"""


def frame(nodelist: bytes = b"n[0-1]", length: int | None = None, end: bytes = b"\0") -> str:
    head = struct.pack("=IIi", 12, 3, len(nodelist) if length is None else length)
    return (head + nodelist + end).hex()


class Wrapped:
    """A running `srun --cr`; pid and srun are by this machine's process ids."""

    def __init__(self, cluster: Any, alice: Login) -> None:
        wait = "until test -e stop; do sleep 0.05; done"
        self.place = alice.place
        self.process = alice.popen("srun", "--cr", "-n1", "sh", "-c", wait)
        self.pid, self.srun = until("srun_cr and its srun", self._find)
        path = self._environ("SLURM_SRUN_CR_SOCKET")
        self.socket = path
        self.root = Path(f"/proc/{cluster.state.pid('n0')}/root")
        self.dir = self.root / Path(path).parent.relative_to("/")
        alice.step()

    def _find(self) -> tuple[int, int] | None:
        for pid in children(self.process.pid):
            below = [child for child in children(pid) if status(child, "Name") == "srun"]
            blocked = int(status(pid, "SigBlk") or "1", 16)
            # Before its own execve it has that name too, but not the variable.
            if below and not blocked and self._has_socket(below[0]):
                return pid, below[0]
        return None

    @staticmethod
    def _has_socket(pid: int) -> bool:
        with contextlib.suppress(OSError):  # it may end
            return b"\0SLURM_SRUN_CR_SOCKET=" in Path(f"/proc/{pid}/environ").read_bytes()
        return False

    def _environ(self, name: str) -> str:
        words = Path(f"/proc/{self.srun}/environ").read_text().split("\0")
        return next(word.split("=", 1)[1] for word in words if word.startswith(f"{name}="))

    def look_old(self) -> None:
        """Make sweep() look at its directory: a young one may have no listener yet."""
        os.utime(self.dir, (0, 0))

    def finish(self) -> None:
        """Let its task end, and wait for its own end."""
        (self.place / "stop").touch()
        assert self.process.wait(30) == 0

    def end(self) -> list[str]:
        """End it as a user would; return what srun_cr itself had to say."""
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
        error = self.process.communicate(timeout=20)[1]
        return [line for line in error.splitlines() if line.startswith("srun_cr:")]


@pytest.fixture
def start(cluster: Any, alice: Login) -> Callable[..., Wrapped]:
    return lambda: Wrapped(cluster, alice)


def test_directory_is_the_users_alone(
    alice: Login, bob: Login, start: Callable[..., Wrapped]
) -> None:
    wrapped = start()
    found = wrapped.dir.stat()
    assert found.st_mode & 0o7777 == 0o700
    assert found.st_uid == alice.place.stat().st_uid
    assert [path.name for path in wrapped.dir.iterdir()] == ["socket"]
    done = bob.run("python3", "-c", SEND, wrapped.socket, f'["{frame()}"]')
    assert "Permission denied" in done.stderr
    # Root can: it is told from the user by its credentials.
    root = alice.cluster.node("n0")
    assert root.run(["python3", "-c", SEND, wrapped.socket, f'["{frame()}"]']).returncode == 0
    assert wrapped.end() == ["srun_cr: dropped a connection: it is of uid 0"]
    assert not wrapped.dir.exists()


@pytest.mark.parametrize("end", ["exit", "srun killed", "TERM", "INT INT", "srun_cr killed"])
def test_directory_is_gone_however_it_ends(
    alice: Login, start: Callable[..., Wrapped], end: str
) -> None:
    wrapped = start()
    assert wrapped.dir.exists()
    if end == "exit":
        wrapped.finish()
    elif end == "srun killed":
        os.kill(wrapped.srun, signal.SIGKILL)
        assert wrapped.process.wait(20) == -signal.SIGKILL
    elif end == "TERM":
        os.kill(wrapped.pid, signal.SIGTERM)
        assert wrapped.process.wait(20) > 0
    elif end == "INT INT":
        for _ in range(2):
            os.kill(wrapped.pid, signal.SIGINT)
            until("SIGINT to be taken", lambda: not int(status(wrapped.pid, "ShdPnd") or "0", 16))
        until("it to end", lambda: hurry(wrapped))
    else:
        os.kill(wrapped.pid, signal.SIGKILL)
        assert wrapped.process.wait(20) == -signal.SIGKILL
        assert wrapped.dir.exists()
        wrapped.look_old()
        assert alice.run("srun", "--cr", "-n1", "true").returncode == 0
        alice.cancel_all()  # srun itself has gone on
    wrapped.process.communicate(timeout=20)
    assert not wrapped.dir.exists()


def hurry(wrapped: Wrapped) -> bool:
    """Press Ctrl-C again, as an impatient user does."""
    if wrapped.process.poll() is not None:
        return True
    with contextlib.suppress(ProcessLookupError):
        os.kill(wrapped.pid, signal.SIGINT)
    return False


def test_what_is_no_frame_is_dropped_with_one_line_each(
    alice: Login, start: Callable[..., Wrapped]
) -> None:
    wrapped = start()
    bad = [
        (struct.pack("=II", 1, 2).hex(), "less than a frame"),
        (frame(length=100), "not a frame"),
        (frame(length=-1), "a nodelist of -1 bytes"),
        (frame(b"x" * 32769), "a nodelist of 32769 bytes"),
        (frame(length=2**31 - 1), "a nodelist of 2147483647 bytes"),
        (frame(end=b""), "not a frame"),
        (frame(end=b"\0\0"), "more than a frame"),
        (frame(b"n0\0n1"), "a nodelist with a NUL in it"),
        (frame(b"n\xff"), ""),
        ("ff" * 100000, "a nodelist of -1 bytes"),
    ]
    good = [frame(), frame(), frame(b""), frame(b"x" * 32768)]
    nothing = [""]
    for frames in ([text for text, _ in bad], good, nothing):
        words = "[" + ",".join(f'"{each}"' for each in frames) + "]"
        # Through a file: an argument is 128 KiB at most.
        (alice.place / "frames").write_text(words)
        script = SEND.replace("json.loads(sys.argv[2])", "json.load(open('frames'))")
        assert alice.run("python3", "-c", script, wrapped.socket).returncode == 0
    assert os.path.isdir(f"/proc/{wrapped.pid}")
    said = wrapped.end()
    assert len(said) == len(bad), said
    for line, (_, why) in zip(said, bad):
        assert line.startswith(f"srun_cr: dropped a connection: {why}")


def test_silent_and_many_connections_do_no_harm(
    alice: Login, start: Callable[..., Wrapped]
) -> None:
    """Held open by a client: the step ends as if nobody was there; one too many is dropped."""
    wrapped = start()
    hold = (
        "import select, socket, sys\n"
        "peers = [socket.socket(socket.AF_UNIX) for _ in range(20)]\n"
        "for peer in peers: peer.connect(sys.argv[1])\n"
        "while len(select.select(peers, [], [])[0]) < 4: pass  # dropped, so to be read\n"
        "print('up', flush=True); sys.stdin.read()\n"
    )
    client = alice.popen("python3", "-c", hold, wrapped.socket, stdin=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.readline() == "up\n"
    wrapped.finish()
    said = wrapped.end()
    client.communicate(timeout=30)
    assert said == ["srun_cr: dropped a connection: too many at once"] * 4
    assert not wrapped.dir.exists()


def test_others_come_and_go_unheard(alice: Login, start: Callable[..., Wrapped]) -> None:
    """Each new wrapper looks whether the old ones live: they must not call that an attack."""
    wrapped = start()
    wrapped.look_old()
    for _ in range(3):
        assert alice.run("srun", "--cr", "-n1", "true").stderr == ""
    assert wrapped.end() == []


def test_a_stopped_wrapper_does_not_hold_others_up(
    alice: Login, start: Callable[..., Wrapped]
) -> None:
    """It accepts nothing, so its backlog is full soon: a connect(2) that waited would for ever."""
    wrapped = start()
    wrapped.look_old()
    os.kill(wrapped.pid, signal.SIGSTOP)
    fill = (
        "import socket, sys\n"
        "for _ in range(40):\n"
        "    peer = socket.socket(socket.AF_UNIX); peer.setblocking(False)\n"
        "    try: peer.connect(sys.argv[1])\n"
        "    except BlockingIOError: print('full'); break\n"
    )
    assert alice.run("python3", "-c", fill, wrapped.socket).stdout == "full\n"
    other = alice.popen("srun", "--cr", "-n1", "sh", "-c", "exit 3")
    try:
        assert other.wait(30) == 3
    finally:
        os.kill(wrapped.pid, signal.SIGCONT)
        go_on(wrapped.process)
        other.communicate(timeout=20)
        wrapped.end()


def test_directory_that_cannot_be_made(alice: Login, cluster: Any) -> None:
    node = cluster.node("n0")
    node.run(["chmod", "0755", "/tmp"], check=True)
    try:
        for command in (["srun", "--cr"], ["srun_cr"]):
            done = alice.run(*command, "-n1", "true")
            assert done.returncode == 1
            assert "couldn't make a socket in /tmp" in done.stderr
            assert len(done.stderr.splitlines()) == 1
    finally:
        node.run(["chmod", "1777", "/tmp"], check=True)
