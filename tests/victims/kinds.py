#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Victims of several kinds: each works on until there is a file `stop`, then 20 rounds more, and
checks that nothing was lost: it prints "pass" and exits with 7, or says what is wrong.

usage: kinds.py KIND        A file `ready` says that it has begun.
"""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
import queue
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

STOP, READY = Path("stop"), Path("ready")


def rounds() -> Iterator[int]:
    """Count rounds of 5 ms, until 20 after `stop`."""
    left = 20
    for number in itertools.count():
        if number == 5:
            READY.touch()
        if STOP.exists():
            left -= 1
        if left == 0:
            return
        yield number
        time.sleep(0.005)


def check(fact: bool, what: str) -> None:
    if not fact:
        print(f"fail: {what}", flush=True)
        os._exit(1)


def threads() -> None:
    """A token goes round through the queues of 16 threads, each counting it."""
    queues: list[queue.SimpleQueue[int]] = [queue.SimpleQueue() for _ in range(17)]

    def work(place: int) -> None:
        for wanted in itertools.count():
            token = queues[place].get()
            check(token == wanted, f"thread {place} got {token}, not {wanted}")
            queues[place + 1].put(token)

    for place in range(16):
        threading.Thread(target=work, args=(place,), daemon=True).start()
    for number in rounds():
        queues[0].put(number)
        check(queues[16].get() == number, "the token is another")


def numpy() -> None:
    """Matrix products on all threads of its BLAS come out as they do in one go."""
    import numpy  # type: ignore[import-not-found,unused-ignore]

    matrix = numpy.random.default_rng(1).random((300, 300))
    vector = numpy.ones(300)
    turns = 0
    for _ in rounds():
        vector = matrix @ (matrix @ numpy.diag(vector)).sum(axis=1)
        vector /= vector.max()
        turns += 1
    again = numpy.ones(300)
    for _ in range(turns):
        again = matrix @ (matrix @ numpy.diag(again)).sum(axis=1)
        again /= again.max()
    check(bool(numpy.allclose(vector, again, rtol=1e-9)), "the sums differ")


def echo(read: int, write: int) -> None:
    """Send back what comes, until it ends."""
    while data := os.read(read, 4):
        os.write(write, data)
    os._exit(0)


def converse(read: int, write: int, child: int) -> None:
    """Have a child echo each round's number, and end well at the end."""
    for number in rounds():
        os.write(write, number.to_bytes(4, "big"))
        check(int.from_bytes(os.read(read, 4), "big") == number, f"number {number} is lost")
    os.close(write)
    pid, status = os.waitpid(child, 0)
    check((pid, status) == (child, 0), f"the child ended with {status}")


def session() -> None:
    """A child in a session of its own, over two pipes."""
    there, back = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(there[1])
        os.close(back[0])
        echo(there[0], back[1])
    os.close(there[0])
    os.close(back[1])
    converse(back[0], there[1], child)


def fifo() -> None:
    """Two FIFOs on the shared file system, to a child."""
    os.mkfifo("there")
    os.mkfifo("back")
    child = os.fork()
    if child == 0:
        echo(os.open("there", os.O_RDONLY), os.open("back", os.O_WRONLY))
    write = os.open("there", os.O_WRONLY)
    converse(os.open("back", os.O_RDONLY), write, child)


def socketpair() -> None:
    """A Unix socket pair, to a child."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        echo(theirs.fileno(), theirs.fileno())
    theirs.close()
    converse(ours.fileno(), ours.detach(), child)


def listener() -> None:
    """A Unix listener, where a child connects anew every round."""
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen()
    for number in rounds():
        child = os.fork()
        if child == 0:
            client = socket.socket(socket.AF_UNIX)
            client.connect("socket")
            client.send(b"%d" % number)
            # CRIU refuses one that is closed before it is accepted.
            client.recv(1)
            os._exit(0)
        connection, _ = server.accept()
        check(connection.recv(9) == b"%d" % number, "another number came")
        connection.close()
        os.waitpid(child, 0)


def deleted() -> None:
    """A file of 4 MiB that is open, mapped, and deleted."""
    file = os.open("gone", os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(file, 4 << 20)
    memory = mmap.mmap(file, 4 << 20)
    Path("gone").unlink()
    memory[-4:] = b"tail"
    for number in rounds():
        found = int.from_bytes(memory[:8], "big")
        check(found == number, f"round {number} found {found}")
        os.pwrite(file, (number + 1).to_bytes(8, "big"), 0)
    check(os.pread(file, 5, (4 << 20) - 4) == b"tail", "the tail is lost")


def log() -> None:
    """A log that is open for appending, and locked."""
    file = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    last = 0
    for number in rounds():
        os.write(file, b"%d\n" % number)
        last = number
    other = os.open("log", os.O_WRONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        check(False, "the lock is lost")
    except BlockingIOError:
        pass
    found = [int(line) for line in Path("log").read_text().split()]
    check(found == list(range(last + 1)), "the log has gaps")


def timer() -> None:
    """An interval timer goes on, with its interval, and so does an epoll over a signal pipe."""
    ticks = itertools.count(1)
    seen = [0]
    signal.signal(signal.SIGALRM, lambda *_: seen.__setitem__(0, next(ticks)))
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write)
    poll = select.epoll()
    poll.register(read, select.EPOLLIN)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    for _ in rounds():
        check(bool(poll.poll(5)), "the timer is silent")
        os.read(read, 64)
    before = seen[0]
    with suppress(BlockingIOError):
        os.read(read, 64)  # of a tick that is counted already, on a busy machine
    check(bool(poll.poll(5)), "the timer is silent")
    check(seen[0] > before, "the handler is lost")
    check(abs(signal.getitimer(signal.ITIMER_REAL)[1] - 0.02) < 0.001, "another interval")
    signal.setitimer(signal.ITIMER_REAL, 0)  # on its last way Python has no handler


def children() -> None:
    """A zombie and a stopped child stay what they are."""
    zombie = os.fork()
    if zombie == 0:
        os._exit(9)
    stopped = os.fork()
    if stopped == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(11)
    os.waitpid(stopped, os.WUNTRACED)
    for _ in rounds():
        check(os.waitpid(stopped, os.WNOHANG)[0] == 0, "the stopped one has gone on")
    os.kill(stopped, signal.SIGCONT)
    check(os.waitstatus_to_exitcode(os.waitpid(stopped, 0)[1]) == 11, "the stopped one is lost")
    check(os.waitstatus_to_exitcode(os.waitpid(zombie, 0)[1]) == 9, "the zombie is lost")


globals()[sys.argv[1]]()
print("pass", flush=True)
sys.exit(7)
