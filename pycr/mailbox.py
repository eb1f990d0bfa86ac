# SPDX-License-Identifier: GPL-2.0-or-later
"""A process's mailbox: how it is asked before a checkpoint, and told what came of it.

    the asker (ask.py, pod/)                    the process
        | checkpoint --------- request pipe ------> |  finishes what must not be cut in two
        | <--- reply pipe ---- ready / later / cannot |  then does nothing but wait
        | still there (every few seconds) --------> |
        |    ... its tree is frozen, dumped, let go ...
        | go on ----------------------------------> |  whether there is a checkpoint or not
        | restarted (directory, environment) -----> |  in a restored copy: from its pod

Both pipes are the process's own, at both ends: the asker opens them through /proc/PID/fd, which the
kernel lets the same user do and nobody else. So nothing leads out of the process's tree, and it can
be dumped at any moment; a connection would have to be closed for each checkpoint and could never be
found again after one. A memfd by the name of NAME tells which descriptors they are:

    {"protocol": 1, "pid": 4711, "role": "program", "request": 5, "reply": 8}

with `pid` as the process itself sees it: a child that inherited the descriptors is not their owner.
Messages are JSON objects, one a line. docs/batch.md has all of them.

Only built-in modules are imported here, as srun_cr/ is on the way of every `srun --cr`.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "pycr-callback"
PROTOCOL = 1
MONITOR_COMM = "pycr-monitor"  # the name of what stands beside srun; 15 bytes at most
MONITOR = "monitor"  # and the role of its mailbox
SILENCE = 10  # turns of a second each without a word, after which the asker is taken for dead


def identity() -> str:
    """Return what a restored copy of this process has otherwise: its boot and its start time."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        with open("/proc/self/stat", errors="replace") as file:
            return f"{boot} {file.read().rpartition(')')[2].split()[19]}"
    except OSError:
        return ""


class Mailbox:
    """The two pipes and the memfd that tells of them."""

    def __init__(self, role: str) -> None:
        """Make it. role: a plain word. Raises OSError."""
        flags = os.O_CLOEXEC | os.O_NONBLOCK
        self.request, self._write = os.pipe2(flags)
        self._reply_read, self._reply = os.pipe2(flags)
        self._data = b""
        self._unread: list[dict[str, Any]] = []
        self._identity = identity()
        self._card = os.memfd_create(NAME)
        card = f'"protocol": {PROTOCOL}, "pid": {os.getpid()}, "role": "{role}"'
        card += f', "request": {self._write}, "reply": {self._reply_read}'
        os.write(self._card, f"{{{card}}}\n".encode())  # json would take srun_cr 5 ms to import

    def post(self, *words: object) -> None:
        """Put a message of words into this mailbox, from a child of its process. Raises OSError.

        No JSON: each `srun --cr` of a job has these, and json takes as long to import as Python to
        start.
        """
        os.write(self._write, " ".join(str(word) for word in words).encode() + b"\n")

    def read(self) -> list[dict[str, Any]]:
        """Return the messages that have come; a posted one as {"do": WORD, "words": [...]}."""
        while True:
            try:
                data = os.read(self.request, 65536)
            except BlockingIOError:
                break
            self._data += data
        *lines, self._data = self._data.split(b"\n")
        found: list[dict[str, Any]] = []
        for line in lines:
            if line[:1] == b"{":
                import json

                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                found.append(value)
            else:
                words = line.decode(errors="replace").split()
                if words:
                    found.append({"do": words[0], "words": words[1:]})
        return found

    def next(self, milliseconds: int | None) -> dict[str, Any] | None:
        """Return the next message, None where none comes in that time."""
        if not self._unread and self.wait(milliseconds):
            self._unread = self.read()
        return self._unread.pop(0) if self._unread else None

    def answer(self, question: dict[str, Any], event: str, **value: Any) -> None:
        """Answer a question; one that nobody takes is dropped."""
        import json

        reply = {"id": question.get("id"), "event": event, **value}
        try:
            while len(os.read(self._reply_read, 65536)):  # what an asker that died has left
                pass
        except OSError:
            pass
        os.write(self._reply, json.dumps(reply).encode() + b"\n")

    def wait(self, milliseconds: int | None) -> bool:
        """Wait for a message; tell whether there is one."""
        import select

        poll = select.poll()
        poll.register(self.request, select.POLLIN)
        return bool(poll.poll(milliseconds))

    def restored(self) -> bool:
        """Tell whether this is a restored copy of the process that made the mailbox."""
        return identity() != self._identity

    def renew(self) -> None:
        """Be the mailbox of a restored process from now on."""
        self._identity = identity()

    def only_post(self) -> None:
        """Keep, in a child of its process, what post() needs, and no more."""
        for descriptor in self.descriptors() - {self._write}:
            os.close(descriptor)

    def descriptors(self) -> set[int]:
        """Return all that it consists of."""
        return {self.request, self._write, self._reply_read, self._reply, self._card}

    def post_descriptor(self) -> int:
        """Return what post() writes to."""
        return self._write

    def close(self) -> None:
        """Give it up."""
        for descriptor in self.descriptors():
            os.close(descriptor)


class Silence:
    """Counts the turns in which an asker kept silent; a frozen process counts none."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox, self.turns = mailbox, 0

    def heard(self) -> None:
        """Begin anew."""
        self.turns = 0

    def over(self) -> bool:
        """Count a turn of a second; tell whether the asker must be dead.

        A restored copy waits on: its pod will tell it.
        """
        self.turns += 1
        return self.turns >= SILENCE and not self.mailbox.restored()


def apply_environment(changes: dict[str, Any]) -> None:
    """Take the new job's variables: name -> [the new value, those of all jobs before], null: none.

    What the script has set to something of its own stays as it is.
    """
    for name, (new, *old) in changes.items():
        if os.environ.get(name) not in old:
            continue
        if new is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = new
