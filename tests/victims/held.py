#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Victim: from when there is a file `hold` it holds what a checkpoint may not; it counts for ever.

It writes its numbers to stdout, and "held" when it has it. usage: held.py KIND [ARGUMENT]
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
IO_URING_SETUP = 425
PTRACE_TRACEME = 0
kept: list[object] = []


def inotify(path: str = "/usr/bin") -> None:
    descriptor = libc.inotify_init1(0)
    assert libc.inotify_add_watch(descriptor, path.encode(), 0x100) > 0, ctypes.get_errno()


def io_uring() -> None:
    parameters = ctypes.create_string_buffer(256)
    assert libc.syscall(IO_URING_SETUP, 4, parameters) >= 0, ctypes.get_errno()


def sysv() -> None:
    segment = libc.shmget(0, 4096, 0o1600)  # IPC_PRIVATE, IPC_CREAT
    libc.shmat.restype = ctypes.c_void_p
    kept.append(libc.shmat(segment, None, 0))
    libc.shmctl(segment, 0, None)  # IPC_RMID: gone with this process


def traced() -> None:
    child = os.fork()
    if child == 0:
        libc.ptrace(PTRACE_TRACEME, 0, 0, 0)
        time.sleep(1000)
        os._exit(0)
    status = Path(f"/proc/{child}/status")
    while f"TracerPid:\t{os.getpid()}" not in status.read_text():
        time.sleep(0.01)


def hard_link(directory: str) -> None:
    one, two = Path(directory, "one"), Path(directory, "two")
    os.open(one, os.O_WRONLY | os.O_CREAT)
    two.unlink(missing_ok=True)
    os.link(one, two)
    one.unlink()


def program(path: str) -> None:
    child = subprocess.Popen([path, "1000"])
    kept.append(child)
    while not os.readlink(f"/proc/{child.pid}/exe").endswith(path[1:]):
        time.sleep(0.01)


def mapping(path: str) -> None:
    # Python's own mmap keeps a descriptor.
    libc.mmap.restype = ctypes.c_void_p
    with open(path, "rb") as file:
        libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_PRIVATE, file.fileno(), ctypes.c_long(0))


def replaced() -> None:
    """A program of the user's own, as a new build does it."""
    shutil.copy("/bin/sleep", "program")
    program("./program")
    os.unlink("program")
    shutil.copy("/bin/true", "program")


def directory() -> None:
    os.mkdir("directory")
    os.chdir("directory")
    os.rmdir("../directory")


def device(path: str) -> None:
    os.open(path, os.O_RDONLY)


def terminal(path: str) -> None:
    os.open(path, os.O_RDWR | os.O_NOCTTY)


def unix(path: str) -> None:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    kept.append(connection)


def tcp(host: str, port: str) -> None:
    kept.append(socket.create_connection((host, int(port))))


def listener() -> None:
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    kept.append(server)


def memory(mark: str) -> None:
    """Share memory with another holder of that mark, the first of which makes it."""
    path = Path(mark)
    if path.exists():
        pid, fd = path.read_text().split()
        descriptor = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR)
    else:
        descriptor = os.memfd_create("together")
        os.ftruncate(descriptor, 4096)
    kept.append(mmap.mmap(descriptor, 4096))
    if not path.exists():
        path.write_text(f"{os.getpid()} {descriptor}")


def many(count: str) -> None:
    """Hold much of what costs time to look at and is no harm: descriptors and mappings."""
    for number in range(int(count)):
        os.open(sys.argv[0], os.O_RDONLY)
        kept.append(socket.socketpair())
        kept.append(mmap.mmap(-1, 4096, mmap.MAP_PRIVATE, 1 + number % 2))


def empty_inotify() -> None:
    assert libc.inotify_init1(0) >= 0


def deleted() -> None:
    """A file that is gone, and one whose name ends as if it were."""
    for name in ("gone", "here (deleted)"):
        os.write(os.open(name, os.O_WRONLY | os.O_CREAT), b"text")
    os.unlink("gone")
    os.link("here (deleted)", "again")


def pty() -> None:
    kept.append(os.openpty())


held = False
number = 0
while True:
    if not held and Path("hold").exists():
        globals()[sys.argv[1]](*sys.argv[2:])
        held = True
        print("held", flush=True)
    print(number, flush=True)
    number += 1
    time.sleep(0.05)
