# SPDX-License-Identifier: GPL-2.0-or-later
"""Ask the processes of a tree whether they can be checkpointed now, and tell them what came of it.

The other side of mailbox.py, which has the diagram. node/ asks before it freezes a tree; the pod
tells what it restored. Everything here goes through /proc, so that no process of the tree ever
holds a connection to this one.
"""

from __future__ import annotations

import json
import os
import select
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from pycr import mailbox
from pycr.engine import proc
from pycr.errors import Later, TaskError, TimedOut
from pycr.protocol import Object

STILL_THERE = mailbox.SILENCE / 4  # seconds between words to those who wait
TURN = 0.05  # seconds between looks at who has not answered yet
AGAIN = 0.2  # seconds until one who said "later" is asked again
WHOLE = 5.0  # seconds that a process may take to read a message larger than its pipe
MAX_ANSWER = 1 << 16


class Process:
    """One process with a mailbox."""

    def __init__(self, pid: int, card: Object) -> None:
        """pid: as it is here. Raises OSError, ValueError, KeyError for what is no mailbox."""
        self.pid = pid
        self.role = str(card["role"])
        self.own_pid = int(card["pid"])
        self._data = b""
        self._id = ""
        self._request = open_pipe(pid, int(card["request"]), os.O_WRONLY)
        try:
            self.reply = open_pipe(pid, int(card["reply"]), os.O_RDONLY)
        except (OSError, ValueError):
            os.close(self._request)
            raise

    def tell(self, do: str, **value: Any) -> None:
        """Send it a message; one that has ended, or whose mailbox is full, gets none."""
        data = json.dumps({"do": do, **value}).encode() + b"\n"
        with suppress(OSError):
            data = data[os.write(self._request, data) :]
            # A pipe may hold less than an environment: what is begun is ended, or nothing that
            # comes behind it could be understood.
            give_up = time.monotonic() + WHOLE
            while data and time.monotonic() < give_up:
                select.select([], [self._request], [], TURN)
                with suppress(BlockingIOError):
                    data = data[os.write(self._request, data) :]

    def ask(self, do: str, **value: Any) -> None:
        """Send it a question; answer() then has what it said."""
        self._id = os.urandom(6).hex()
        self._data = b""
        self.tell(do, id=self._id, **value)

    def answer(self) -> Object | None:
        """Return its answer, None while there is none. Raises ProcessLookupError."""
        lives = proc.alive(self.pid)  # before the look: its last act may be to answer
        with suppress(BlockingIOError):
            data = os.read(self.reply, 65536)
            if not data:  # it has closed its mailbox: by now it is another program (execve(2))
                raise ProcessLookupError(self.pid)
            self._data += data
        *lines, self._data = self._data.split(b"\n")
        if len(self._data) > MAX_ANSWER:
            raise ProcessLookupError(self.pid)
        for line in lines:
            with suppress(ValueError, RecursionError):
                value = json.loads(line)
                if isinstance(value, dict) and value.get("id") == self._id:
                    return value
        if not lives:
            raise ProcessLookupError(self.pid)
        return None

    def where(self) -> str:
        """Name it for a message."""
        return f"process {self.own_pid} ({proc.comm(self.pid)})"

    def close(self) -> None:
        os.close(self._request)
        os.close(self.reply)


def open_pipe(pid: int, fd: int, flags: int) -> int:
    """Open what a process has as a descriptor. Raises OSError, ValueError for what is no pipe."""
    path = f"/proc/{pid}/fd/{fd}"
    if not os.readlink(path).startswith("pipe:["):
        raise ValueError(f"{path}: no pipe")
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def find(pids: Iterable[int]) -> list[Process]:
    """Return those of the processes that have a mailbox of their own."""
    found = []
    for pid in pids:
        with suppress(OSError):
            # Where the helper may look at every process (yama), it still looks only at the user's.
            if os.stat(f"/proc/{pid}").st_uid != os.getuid():
                continue
            for name in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{name}"
                with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                    if os.readlink(path) != f"/memfd:{mailbox.NAME} (deleted)":
                        continue
                    with open(path, "rb") as file:
                        card = json.loads(file.read(4096))
                    # A child of fork(2) has its parent's descriptors, and is not the owner.
                    if card["protocol"] == mailbox.PROTOCOL and card["pid"] == proc.own_pid(pid):
                        found.append(Process(pid, card))
                        break
    return found


class Asked:
    """The processes that were asked and are waiting; they are told that this one still lives."""

    def __init__(self) -> None:
        self.processes: dict[int, Process] = {}
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def ask(self, processes: Sequence[Process], do: str, patience: float, **value: Any) -> Object:
        """Ask them all and wait until each has answered; return the answers of those that said
        "ready", by pid. Who ends meanwhile need not answer.

        patience: seconds. Raises TaskError for "cannot", TimedOut.
        """
        give_up = time.monotonic() + patience
        waiting = {process.pid: self._known(process) for process in processes}
        again: dict[int, float] = {}
        ready: Object = {}
        reason = "it does not answer"
        for process in waiting.values():
            process.ask(do, **value)
        self._keep_telling()
        while waiting:
            now = time.monotonic()
            for pid, process in list(waiting.items()):
                if again.get(pid, now) < now:
                    del again[pid]
                    process.ask(do, **value)
                try:
                    answer = process.answer()
                except ProcessLookupError:
                    del waiting[pid]
                    continue
                if answer is None:
                    continue
                event = answer.get("event")
                if event == "later":
                    again[pid] = now + AGAIN
                    reason = f"it said: {answer.get('reason')}"
                elif event == "cannot":
                    raise TaskError(f"{process.where()} cannot be: {answer.get('reason')}")
                else:
                    ready[str(pid)] = answer
                    del waiting[pid]
            if waiting and now > give_up:
                process = next(iter(waiting.values()))
                raise TimedOut(f"{process.where()} is not ready for it: {reason}")
            if waiting:
                select.select([process.reply for process in waiting.values()], [], [], TURN)
        return ready

    def _known(self, process: Process) -> Process:
        """Return the one there is for the same process, or else this one, to be kept."""
        kept = self.processes.setdefault(process.pid, process)
        if kept is not process:
            process.close()
        return kept

    def refuse_others(self, processes: Sequence[Process]) -> None:
        """Refuse a tree in which another process has a mailbox than was asked. Raises Later."""
        for process in processes:
            process.close()
        for process in processes:
            if process.pid not in self.processes:
                raise Later(f"{process.where()} has just started")

    def tell(self, do: str, **value: Any) -> None:
        """Tell them all, and be done with them."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for process in self.processes.values():
            process.tell(do, **value)
            process.close()
        self.processes.clear()
        self._done.clear()

    def _keep_telling(self) -> None:
        if self._thread is None and self.processes:
            self._thread = threading.Thread(target=self._still_there, daemon=True)
            self._thread.start()

    def _still_there(self) -> None:
        while not self._done.wait(STILL_THERE):
            for process in list(self.processes.values()):
                process.tell("still there")
