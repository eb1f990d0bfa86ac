# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read of sockets and memory, of this process itself; what is refused: test_refusals.py."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pycr.engine import holds, sockets
from pycr.errors import TaskError
from tests.login import until

MIB = 1 << 20


def inode(thing: socket.socket) -> int:
    return os.fstat(thing.fileno()).st_ino


def test_peers_of_unix_sockets(tmp_path: Path) -> None:
    one, other = socket.socketpair()
    path = tmp_path / "a name"
    with one, other, socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as end:
        server.bind(str(path))
        server.listen()
        end.connect(str(path))
        accepted, _ = server.accept()
        with accepted, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
            abstract.bind(f"\0pycr-test-{os.getpid()}")
            found = sockets.unix()
            assert found[inode(one)] == sockets.Unix(inode(other), "")
            assert found[inode(server)] == sockets.Unix(0, str(path))
            assert found[inode(end)].peer == inode(accepted)
            assert found[inode(accepted)] == sockets.Unix(inode(end), str(path))
            assert found[inode(abstract)].name == f"@pycr-test-{os.getpid()}"


@pytest.mark.parametrize(("family", "host"), [("AF_INET", "127.0.0.1"), ("AF_INET6", "::1")])
def test_ends_of_connections(family: str, host: str) -> None:
    kind = getattr(socket, family)
    with socket.socket(kind) as server, socket.socket(kind, socket.SOCK_DGRAM) as datagrams:
        try:
            server.bind((host, 0))
        except OSError:
            pytest.skip(f"expected: no {host} here")
        server.listen()
        datagrams.bind((host, 0))
        port = server.getsockname()[1]
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        with socket.create_connection((host, port)) as end:
            found = sockets.internet()
            assert found[inode(end)] == sockets.Internet("TCP", True, shown)
            assert not found[inode(server)].connected
            assert found[inode(datagrams)].protocol == "UDP"
            assert not found[inode(datagrams)].connected


def test_what_an_image_needs() -> None:
    """Its own memory, and what is shared or deleted once; not the code that is in files."""
    code = """
import mmap, os, sys
own = mmap.mmap(-1, 16 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
shared = mmap.mmap(-1, 8 << 20)
untouched = mmap.mmap(-1, 64 << 20)
memory = open(os.memfd_create("m"), "wb", buffering=0)
for where, pieces in ((own, 256), (shared, 128), (memory, 64)):
    for _ in range(pieces):
        where.write(b"x" * 65536)
if os.fork() == 0:
    shared[:1] = b"x"
os.write(1, b"up\\n")
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == process.stdout.readline() == b"up\n"
        # Both have the 16 MiB, as CRIU writes them.
        needed = holds.needs(process.pid) / MIB
        assert 2 * 16 + 8 + 4 < needed < 2 * 16 + 8 + 4 + 24
        process.communicate(b"")


def test_memory_shared_with_another_process() -> None:
    code = "import mmap, sys; m = mmap.mmap(int(sys.argv[1]), 4096); print(1, flush=True); input()"
    descriptor = os.memfd_create("together")
    os.ftruncate(descriptor, 4096)
    command = [sys.executable, "-c", code, str(descriptor)]
    with (
        mmap.mmap(descriptor, 4096),
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[descriptor]
        ) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        memory = holds.shared(process.pid)
        assert list(memory.values()) == ["/memfd:together (deleted)"]
        assert holds.sharers(set(memory), {process.pid}) == dict.fromkeys(memory, os.getpid())
        assert holds.sharers(set(memory), {process.pid, os.getpid()}) == {}
        assert holds.sharers(set(), set()) == {}
        process.communicate(b"\n")
    os.close(descriptor)


def test_process_that_is_gone() -> None:
    gone = (1 << 22) + 1
    assert holds.needs(gone) == 0
    assert holds.shared(gone) == {}
    holds.refuse_traced(gone)
    holds.refuse(gone, lambda: "no", 1 << 30)


def test_undumpable_process() -> None:
    """A child may be, where the root is not; to see it takes another process of the same user."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be two users")
    become = "import os, sys; os.setgid(65534); os.setuid(65534)\n"
    look = (
        "sys.path.insert(0, sys.argv[2])\n"
        "from pycr.engine import holds\n"
        "try: holds.refuse(int(sys.argv[1]), str, 1 << 30)\n"
        "except Exception as error: print(error)"
    )
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", f"{become}print('up', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        command = [sys.executable, "-c", become + look, str(process.pid), root]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        process.communicate(b"\n")
    assert done.stdout.startswith("/proc does not let its owner look at process ")


def test_tracer_is_named() -> None:
    code = (
        "import ctypes, os, time\n"
        "child = os.fork()\n"
        "if child == 0: ctypes.CDLL(None).ptrace(0, 0, 0, 0); time.sleep(60)\n"
        "os.waitpid(child, 0)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:

        def said() -> str:
            try:
                holds.refuse_traced(process.pid)
            except TaskError as error:
                return str(error)
            return ""

        words = until("it to be traced", said)
        assert f"is traced by process {process.pid} (python" in words
        os.kill(int(words.split()[1]), 9)
