# SPDX-License-Identifier: GPL-2.0-or-later
"""The process beside srun, in a job: srun's parent, its output's way, and the socket it reports to.

    batch script ---- srun_cr                        (dumped and restored with the script)
         .  stdout      |  ^ step, ended: mailbox
         .              v  | pause, resume: pipe
         ............ monitor ---- srun              (outside: never dumped, made anew)
           output       | listens on SLURM_SRUN_CR_SOCKET

srun holds connections that no checkpoint can have, so it must not be in the script's process tree;
and what tasks have written may still be on its way through srun when the script is dumped. So
srun's output passes through here. While a checkpoint is under way nothing more of it reaches the
script; what has come by then and has not been delivered is kept with the checkpoint, in a file of
late.name_of(), and a restored srun_cr delivers it before it starts srun again.

srun_cr forks this (srun_cr/job.py) and hears of it by its mailbox; the helper that dumps the script
asks it, by a mailbox of its own, to hold, to go on, or to collect all until srun's end.
"""

from __future__ import annotations

import _signal as signal  # signal itself is enum, re and more: as much again as Python's start
import os
import select
import time

from pycr.mailbox import MONITOR, Mailbox, Silence
from pycr.srun_cr.frames import MAX_CONNECTIONS, Connection, Listener
from pycr.srun_cr.keeper import StepKeeper
from pycr.srun_cr.process import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

ROOM = 1 << 16  # bytes read ahead of what is delivered
LAST = 16  # times as much, at most, that may still be in srun's pipe at its end
TURN = 1000  # milliseconds: as Silence counts them
ATOMIC = 4096  # PIPE_BUF: as much as poll(2) promises that a pipe takes
EPIPE = 32
IDLE = 10.0  # seconds after which an srun that is to end and says nothing will not
LINGER = 1.0  # seconds after srun's end that a child of its may go on writing
# What Slurm says of tasks that the checkpoint has ended; it may come behind a task's half line.
OWN_WORDS = (
    rb"(?:srun: error: [^ \n]+: tasks? [^ \n]+: |srun: Job step aborted|srun: (?:[^ \n]+: )*"
    rb"(?:Terminating|Force Terminated) StepId=|slurmstepd[^ \n]*: error: \*\*\* STEP )[^\n]*\n?"
)


class Stream:
    """srun's standard output or error: the pipe it writes to, and where that goes."""

    def __init__(self, target: int, pipe: int) -> None:
        self.target, self.pipe = target, pipe
        self.buffer = bytearray()
        self.before = 0  # how much of it came before the tasks stood still
        self.is_pipe = os.fstat(target).st_mode & 0o170000 != 0o100000
        self.moved = time.monotonic()

    def read(self, limit: int) -> None:
        """Take what is there."""
        try:
            data = os.read(self.pipe, limit)
        except BlockingIOError:
            return
        self.moved = time.monotonic()
        self.buffer += data
        if not data:
            os.close(self.pipe)
            self.pipe = -1

    def drain(self) -> None:
        """Take the last that is there, as much as a pipe holds, and have done with it."""
        for _ in range(LAST):
            before = len(self.buffer)
            if self.pipe < 0:
                return
            self.read(ROOM)
            if len(self.buffer) == before:
                break
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1

    def write(self) -> None:
        """Deliver some; where nobody reads any more, let srun know in its turn."""
        try:
            done = os.write(self.target, self.buffer[:ATOMIC] if self.is_pipe else self.buffer)
            del self.buffer[:done]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != EPIPE:
                say(f"couldn't write srun's output: {error.strerror}")
            self.buffer.clear()
            if self.pipe >= 0:
                os.close(self.pipe)
                self.pipe = -1


class Monitor:
    """srun and what it says, on its way."""

    def __init__(
        self, owner: Mailbox, owner_pid: int, control: int, listener: Listener, srun: int
    ) -> None:
        """owner: srun_cr's mailbox; control: what srun_cr says to this process, a byte each."""
        self.owner, self.owner_pid, self.control = owner, owner_pid, control
        self.listener, self.srun = listener, srun
        self.mailbox = Mailbox(MONITOR)
        self.silence = Silence(self.mailbox)
        self.streams: list[Stream] = []
        self.connections: dict[int, Connection] = {}
        self.srun_ended = 0.0
        self.status: int | None = None
        self.frames = 0
        self.pausing = self.paused = self.held = self.collecting = False
        self.collected_since = 0.0
        self.draining: dict[str, Any] | None = None
        self.question: dict[str, Any] = {}
        self.settings = self.generation = ""
        self.keeper = StepKeeper(say=False)  # the script's output is no place for it

    def add(self, target: int, pipe: int) -> None:
        """Take on one of srun's streams."""
        os.set_blocking(pipe, False)
        self.streams.append(Stream(target, pipe))

    def descriptors(self) -> set[int]:
        """Return what this process needs beside srun's streams."""
        own = {self.control, self.listener.socket.fileno(), self.owner.post_descriptor()}
        return own | self.mailbox.descriptors()

    def run(self) -> NoReturn:
        """Serve until srun has ended and all it said is delivered; never returns."""
        self.owner.post("started", self.srun, os.getpid())
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            self.reap()
            if self.done():
                break
            poll = select.poll()
            poll.register(wake_read, select.POLLIN)
            poll.register(self.mailbox.request, select.POLLIN)
            poll.register(self.listener.socket.fileno(), select.POLLIN)
            for descriptor in self.connections:
                poll.register(descriptor, select.POLLIN)
            if self.control >= 0:
                poll.register(self.control, select.POLLIN)
            if self.keeper.descriptor >= 0:
                poll.register(self.keeper.descriptor, select.POLLIN)
            self.register(poll)
            timeout = self.timeout()
            ready = {descriptor for descriptor, _ in poll.poll(timeout)}
            if not ready and self.held and timeout == TURN and self.silence.over():
                self.go_on()
            if wake_read in ready:
                os.read(wake_read, 4096)
            if self.listener.socket.fileno() in ready:
                self.accept()
            for descriptor in ready & set(self.connections):
                self.hear(descriptor)
            if self.keeper.descriptor in ready and self.keeper.hear():
                self.end_srun()
            if self.control in ready:
                self.command()
            if self.mailbox.request in ready:
                self.silence.heard()
                for message in self.mailbox.read():
                    self.obey(message)
            self.relay(ready)
            self.end_idle()
            self.drop_slow()
            self.check_drained()
        self.finish()

    def end_idle(self) -> None:
        """End an srun whose step has ended, and that neither says anything more nor ends.

        Its tasks are gone by the time that its output is collected. (Seen on a very busy machine.)
        """
        if not self.collecting or self.status is not None:
            return
        since = max(self.collected_since, *(stream.moved for stream in self.streams), 0.0)
        if time.monotonic() - since > IDLE:
            os.kill(self.srun, signal.SIGKILL)

    def register(self, poll: select.poll) -> None:
        """Have poll watch what may be read or written now."""
        for stream in self.streams:
            if stream.pipe >= 0 and self.may_read(stream):
                poll.register(stream.pipe, select.POLLIN)
            if stream.buffer and not self.held:
                poll.register(stream.target, select.POLLOUT)

    def may_read(self, stream: Stream) -> bool:
        # Held, its tasks stand still: what is on its way has an end, and srun drops it at theirs.
        return self.held or self.draining is not None or len(stream.buffer) < ROOM

    def relay(self, ready: set[int]) -> None:
        """Move what can be moved."""
        for stream in self.streams:
            if stream.pipe in ready and self.may_read(stream):
                stream.read(ROOM)
            if stream.target in ready and stream.buffer and not self.held:
                stream.write()

    def timeout(self) -> int | None:
        """Return the milliseconds until something is due, None where nothing is."""
        if self.draining is not None:
            return 10
        if self.srun_ended and self.keeper.holds():
            return TURN
        if self.srun_ended and (self.collecting or not self.held):
            return 10
        if self.held or self.connections:
            return TURN
        return None

    def reap(self) -> None:
        """Take srun's status when it has ended; see whether it stands still when asked to pause."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid != self.srun:
                continue
            if os.WIFSTOPPED(status):
                self.stopped()
            else:
                self.status, self.srun_ended = status, time.monotonic()

    def done(self) -> bool:
        """Tell whether srun has ended and everything it said was delivered, or collected."""
        if self.status is None or self.keeper.holds():
            return False
        late = time.monotonic() - self.srun_ended > LINGER
        if self.held and not self.collecting:
            return False
        if any(stream.pipe >= 0 for stream in self.streams):
            if not late:
                return False
            for stream in self.streams:
                stream.drain()
        if self.held:
            return True
        return all(not stream.buffer for stream in self.streams)

    def finish(self) -> NoReturn:
        """Report the end, to who waits for it."""
        self.listener.remove()
        if self.collecting:
            reason = ""
            try:
                self.keep(without_own_words=True)
            except OSError as error:
                reason = str(error)
            self.mailbox.answer(self.question, "collected", reason=reason)
        else:
            self.owner.post("ended", self.status)
        os._exit(0)

    def accept(self) -> None:
        """Take a connection, if it is this user's."""
        try:
            descriptor, uid = self.listener.accept()
        except OSError:
            return
        if uid != os.geteuid() or len(self.connections) >= MAX_CONNECTIONS:
            os.close(descriptor)
            return
        self.connections[descriptor] = Connection(descriptor)

    def hear(self, descriptor: int) -> None:
        """Take in what a connection sends: the step's frame, once or twice."""
        connection = self.connections[descriptor]
        try:
            frame = connection.read()
            if frame is None and connection.data:
                return
        except BlockingIOError:
            return
        except (OSError, ValueError):
            frame = None
        del self.connections[descriptor]
        os.close(descriptor)
        if frame is not None:
            self.frames += 1
            if self.frames == 1:
                self.owner.post("step", frame[0], frame[1])
                settings = self.settings or self.listener.settings()
                self.keeper.start(frame[0], frame[1], settings, self.generation)

    def drop_slow(self) -> None:
        """Drop what has not sent its frame in time."""
        now = time.monotonic()
        for descriptor in [fd for fd, each in self.connections.items() if each.deadline < now]:
            del self.connections[descriptor]
            os.close(descriptor)

    def command(self) -> None:
        """Do what srun_cr says: hold srun back before its launch, or let it go on."""
        data = os.read(self.control, 256)
        for byte in data:
            if byte == ord("p") and self.status is None:
                self.pausing = True
                os.kill(self.srun, signal.SIGSTOP)
            elif byte == ord("r"):
                self.resume()
            elif byte == ord("t") and not self.keeper.take_term():
                self.end_srun()
        if not data:  # srun_cr is gone: srun must not stand still for ever
            self.resume()
            os.close(self.control)
            self.control = -1

    def end_srun(self) -> None:
        """Send srun the SIGTERM that came for it."""
        if self.status is None:
            os.kill(self.srun, signal.SIGTERM)

    def stopped(self) -> None:
        """srun stands still: it is held back if it had not told of its step."""
        if not self.pausing:
            return
        self.pausing, self.paused = False, True
        self.accept()
        for descriptor in list(self.connections):
            self.hear(descriptor)
        if self.frames or self.connections:
            self.resume()  # its step is launched, or just being so
        else:
            self.owner.post("paused")

    def resume(self) -> None:
        """Let srun go on."""
        if self.pausing or self.paused:
            self.pausing = self.paused = False
            if self.status is None:
                os.kill(self.srun, signal.SIGCONT)

    def obey(self, message: dict[str, Any]) -> None:
        """Do what the helper that dumps the script asks."""
        do = message.get("do")
        if do == "hold":
            self.draining = {**message, "give_up": time.monotonic() + float(message["most"])}
            for stream in self.streams:
                stream.moved = time.monotonic()
        elif do == "collect":
            self.question, self.collecting, self.held = message, True, True
            self.collected_since = time.monotonic()
            self.linger_anew()
            if self.pausing or self.paused:
                os.kill(self.srun, signal.SIGKILL)  # it has launched nothing, and never will
        elif do == "go on":
            self.go_on()

    def check_drained(self) -> None:
        """Hold when srun has been quiet for long enough, or has been given enough time."""
        wish, now = self.draining, time.monotonic()
        if wish is None:
            return
        quiet = all(now - stream.moved >= float(wish["quiet"]) for stream in self.streams)
        if quiet or now >= wish["give_up"]:
            self.draining, self.question, self.held = None, wish, True
            for stream in self.streams:
                stream.before = len(stream.buffer)
            try:
                self.keep()
            except OSError as error:  # the checkpoint fails; what runs must not
                self.mailbox.answer(wish, "cannot", reason=f"keeping its output: {error}")
                self.go_on()
                return
            self.mailbox.answer(wish, "held")

    def go_on(self) -> None:
        self.held = self.collecting = False
        self.draining = None
        self.linger_anew()

    def linger_anew(self) -> None:
        """Give what an srun that has ended left behind LINGER again."""
        if self.status is not None:
            self.srun_ended = time.monotonic()

    def keep(self, without_own_words: bool = False) -> None:
        """Write down what was not delivered, for srun_cr's restored copy.

        without_own_words: leave out what srun says of tasks that the checkpoint itself has ended.
        """
        import re

        from pycr.images import late

        kept = {}
        for stream in self.streams:
            data = bytes(stream.buffer)
            if without_own_words:
                before, since = data[: stream.before], data[stream.before :]
                data = before + re.sub(OWN_WORDS, b"", since)
            if data:
                kept[stream.target] = data
        late.write(self.question["dir"], self.owner_pid, kept)
