# SPDX-License-Identifier: GPL-2.0-or-later
"""What srun sends to srun_cr when the step is there: the frame, and nothing else when it cannot."""

from __future__ import annotations

import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .driver import DEADLINE, Host

SCRIPT = ["context local", "item job 4294967290", "item step 3", "call init"]
CALL = "call local_user_init"


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short name: a socket's has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="cr-") as name:
        yield Path(name)


@pytest.fixture
def listener(directory: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(directory / "socket"))
        listening.listen()
        listening.settimeout(DEADLINE)
        yield listening


def received(listener: socket.socket) -> bytes:
    """Return all that the one connection brings."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(DEADLINE)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("nodelist", ["n0", "tux[0-3,7]", "n" * 40000])
def test_sends_the_frame(
    host: Host, directory: Path, listener: socket.socket, nodelist: str
) -> None:
    env = {"SLURM_SRUN_CR_SOCKET": str(directory / "socket")}
    run = host.run([*SCRIPT, f"layout {nodelist}", CALL], env=env)
    size = len(nodelist)
    assert received(listener) == (
        struct.pack("=IIi", 4294967290, 3, size) + nodelist.encode() + b"\0"
    )
    assert run.all("return") == ["init 0", "local_user_init 0"]
    # SLURM's NO_VAL: the step of no particular component of a heterogeneous job.
    assert run.one("layout_get") == "4294967290 3 0xfffffffe"
    assert run.lines.count("layout_free") == 1
    assert not run.errors


def test_sends_nothing_without_a_socket(host: Host) -> None:
    run = host.run([*SCRIPT, "layout n0", CALL])
    assert run.all("return") == ["init 0", "local_user_init 0"]
    assert not run.all("layout_get")
    assert not run.errors


def test_no_listener_is_no_error(host: Host, directory: Path) -> None:
    path = directory / "gone"
    run = host.run([*SCRIPT, "layout n0", CALL], env={"SLURM_SRUN_CR_SOCKET": str(path)})
    assert run.all("return") == ["init 0", "local_user_init 0"]
    assert run.all("debug:") == [f"cr: couldn't connect to {path}: No such file or directory"]
    assert run.lines.count("layout_free") == 1
    assert not run.errors


@pytest.mark.parametrize("size", [108, 5000])
def test_a_path_no_socket_can_have_is_no_error(host: Host, size: int) -> None:
    env = {"SLURM_SRUN_CR_SOCKET": "/" * size}
    run = host.run([*SCRIPT, "layout n0", CALL], env=env)
    assert run.all("return") == ["init 0", "local_user_init 0"]
    assert not run.all("layout_get")
    assert not run.errors


def test_the_longest_path_is_tried(host: Host) -> None:
    path = "/tmp/" + "x" * 102
    run = host.run([*SCRIPT, "layout n0", CALL], env={"SLURM_SRUN_CR_SOCKET": path})
    assert run.all("debug:") == [f"cr: couldn't connect to {path}: No such file or directory"]


def test_a_step_without_layout_is_said(host: Host, directory: Path) -> None:
    env = {"SLURM_SRUN_CR_SOCKET": str(directory / "socket")}
    run = host.run([*SCRIPT, CALL], env=env)
    assert run.errors == ["cr: couldn't learn the step's nodes for srun_cr: No such process"]
    assert run.all("return") == ["init 0", "local_user_init 0"]


def test_a_step_without_id_is_said(host: Host, directory: Path) -> None:
    env = {"SLURM_SRUN_CR_SOCKET": str(directory / "socket")}
    run = host.run(["context local", "item job 7", "call init", CALL], env=env)
    assert run.errors == ["cr: couldn't learn the step's id for srun_cr"]
    assert run.all("return") == ["init 0", "local_user_init 0"]


def test_a_listener_that_hangs_up_is_said(
    host: Host, directory: Path, listener: socket.socket
) -> None:
    """srun must neither die of SIGPIPE nor fail."""
    listener.shutdown(socket.SHUT_RD)
    env = {"SLURM_SRUN_CR_SOCKET": str(directory / "socket")}
    run = host.run([*SCRIPT, "layout n0", CALL], env=env)
    assert run.all("return") == ["init 0", "local_user_init 0"]
    assert run.returncode == 0
