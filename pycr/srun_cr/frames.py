# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket of SLURM_SRUN_CR_SOCKET: where it lies, who may connect, and the frame they send.

    u32 job id | u32 step id | int n | n + 1 bytes of nodelist with its NUL       (native-endian)

The frame is Slurm's own, sent by the plugin, and by srun itself up to 25.05. Only built-in modules
are imported here, as in command.py.
"""

from __future__ import annotations

import _socket
import os
import sys
import time

MAX_NODELIST = 32768  # as the original srun_cr
FRAME_HEAD = 12  # the two ids and the length
SLOW = 10.0  # seconds a connection may take to send its frame
MAX_CONNECTIONS = 16
TRIES = 100
EEXIST = 17
YOUNG = 60.0  # seconds: a directory that young may not have its listener yet
SETTINGS = "settings"  # beside it: what spank_cr/srun.pxi tells (settings.py)
PLACE, PREFIX = "/tmp", "srun_cr."  # spank_cr/wrap.pxi makes its own there too


class Listener:
    """The socket of SLURM_SRUN_CR_SOCKET, in a directory of mode 0700."""

    def __init__(self, path: str = "", descriptor: int = -1) -> None:
        """Make it, or take the one that the plugin made. Raises OSError."""
        if path:
            self.path, self.directory = path, os.path.dirname(path)
            self.socket = _socket.socket(fileno=descriptor)
            os.set_inheritable(descriptor, False)
            self.socket.setblocking(False)
            return
        for _ in range(TRIES):
            # A restored process draws the numbers again that another copy of it has drawn: from
            # glibc 2.41 on, os.urandom() has its state in the process (vDSO).
            self.directory = f"{PLACE}/{PREFIX}{os.urandom(6).hex()}"
            try:
                os.mkdir(self.directory, 0o700)
                break
            except FileExistsError:
                continue
        else:
            raise FileExistsError(EEXIST, "no name is free")
        self.path = f"{self.directory}/socket"
        kind = _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        try:
            self.socket = _socket.socket(_socket.AF_UNIX, kind)
            self.socket.bind(self.path)
            self.socket.listen(MAX_CONNECTIONS)
        except BaseException:
            self.remove()
            raise

    def accept(self) -> tuple[int, int]:
        """Return the descriptor of a new connection and its user."""
        descriptor, _ = self.socket._accept()  # type: ignore[attr-defined]
        os.set_blocking(descriptor, False)
        peer = _socket.socket(fileno=descriptor)
        credentials = peer.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        peer.detach()
        return descriptor, int.from_bytes(credentials[4:8], sys.byteorder)

    def sweep(self) -> None:
        """Remove the directories that killed wrappers of this user's have left."""
        place = os.path.dirname(self.directory)
        try:
            names = [name for name in os.listdir(place) if name.startswith(PREFIX)]
        except OSError:
            return
        for name in names:
            path = f"{place}/{name}"
            try:
                status = os.lstat(path)
                if status.st_uid != os.geteuid() or time.time() - status.st_mtime < YOUNG:
                    continue
                kind = _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK
                probe = _socket.socket(_socket.AF_UNIX, kind)
                try:
                    probe.connect(f"{path}/socket")
                except ConnectionRefusedError:
                    for each in os.listdir(path):
                        os.unlink(f"{path}/{each}")
                    os.rmdir(path)
                finally:
                    probe.close()
            except OSError:
                continue

    def settings(self) -> str:
        """Return what the plugin has told of its srun's options, "" where it told nothing."""
        try:
            with open(f"{self.directory}/{SETTINGS}", errors="surrogateescape") as file:
                return file.read(8192)
        except OSError:
            return ""

    def remove(self) -> None:
        """Remove the socket, the settings beside it, and their directory."""
        settings = f"{self.directory}/{SETTINGS}"
        ways = ((os.unlink, self.path), (os.unlink, settings), (os.rmdir, self.directory))
        for remove, path in ways:
            try:
                remove(path)
            except OSError:
                pass


class Connection:
    """One connection and what it has sent; `frame` when that is one whole frame and its end."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.deadline = time.monotonic() + SLOW
        self.data = b""

    def read(self) -> tuple[int, int, str] | None:
        """Take in what is there; return the frame at its end. Raises ValueError, OSError."""
        data = os.read(self.descriptor, 65536)
        if data:
            self.data += data
            if len(self.data) >= FRAME_HEAD:
                length = int.from_bytes(self.data[8:12], sys.byteorder, signed=True)
                if not 0 <= length <= MAX_NODELIST:
                    raise ValueError(f"a nodelist of {length} bytes")
                if len(self.data) > FRAME_HEAD + length + 1:
                    raise ValueError("more than a frame")
            return None
        return parse_frame(self.data) if self.data else None  # without a word: another's probe


def parse_frame(data: bytes) -> tuple[int, int, str]:
    """Return (job id, step id, nodelist) of a frame. Raises ValueError for anything else."""
    if len(data) < FRAME_HEAD:
        raise ValueError("less than a frame")
    length = int.from_bytes(data[8:12], sys.byteorder, signed=True)
    body = data[FRAME_HEAD:]
    if not 0 <= length <= MAX_NODELIST or len(body) != length + 1 or body[-1:] != b"\0":
        raise ValueError("not a frame")
    if b"\0" in body[:-1]:
        raise ValueError("a nodelist with a NUL in it")
    return (
        int.from_bytes(data[0:4], sys.byteorder),
        int.from_bytes(data[4:8], sys.byteorder),
        body[:-1].decode("ascii", "strict"),
    )
