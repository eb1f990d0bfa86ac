# SPDX-License-Identifier: GPL-2.0-or-later
"""srun_cr: the wrapper process around srun.

    shell -- srun_cr --------- srun (its own process group)
               | listens          | SLURM_SRUN_CR_SOCKET=/tmp/srun_cr.XXXXXX/socket
               |<-- job, step, nodelist (from the plugin; from srun itself up to 25.05)

It owns the socket, starts srun, forwards signals and ends as srun ended. Everything a terminal
does goes to srun: where stdin is one, srun's group is made its foreground group, as a shell does.

This is on the way of every `srun --cr`: until srun is started only built-in modules are imported
(`_socket` is what `socket` wraps: 1 ms in place of 9). What srun_cr itself has to say it says on
stderr, a line at a time, behind "srun_cr: ".
"""

from __future__ import annotations

import os
import sys
import time

from pycr.srun_cr.frames import MAX_CONNECTIONS, PLACE, SLOW, Connection, Listener
from pycr.srun_cr.process import dispositions, end_as, exec_srun, look_for_plugin, say, which

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pycr.srun_cr.keeper import StepKeeper

POLLIN = 1  # select.POLLIN; select is not imported here
VARIABLES = ("SRUN", "SOCKET", "CHILD", "LISTENER", "TERMINAL", "IGNORED", "SETTINGS")
PLUGIN_PATIENCE = 1.0  # seconds after which a plugin that kept silent is looked for


class Wrapper:
    """srun and everything between it and the outside."""

    def __init__(self, argv: list[str], listener: Listener) -> None:
        self.argv, self.listener = argv, listener
        self.pid = 0
        self.frames = 0
        self.step: tuple[int, int, str] | None = None
        self.connections: dict[int, Connection] = {}
        self.looking = 0
        self.terminal = False
        self.ignored: set[int] = set()
        self.look_for_plugin = time.monotonic() + PLUGIN_PATIENCE
        self.settings = ""  # as the plugin told them; else they come with the step's frame
        self.keeper: StepKeeper | None = None

    def start(self, srun: str) -> None:
        """Start srun, in its own process group, with the signals that the shell gave."""
        import _signal

        mask, self.ignored = dispositions()
        environment = {**os.environ, "SLURM_SRUN_CR_SOCKET": self.listener.path}
        try:
            self.terminal = os.tcgetpgrp(0) == os.getpgrp()
        except OSError:
            pass
        # Ignored, the kernel would reap srun before this process could.
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        # Until the parent has its handlers no signal may end it and leave srun alone.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setpgid(0, 0)
                if self.terminal:
                    os.tcsetpgrp(0, os.getpid())  # SIGTTOU is blocked here, so it works
                exec_srun(srun, self.argv, environment, mask, self.ignored)
            finally:
                os._exit(127)
        try:
            os.setpgid(self.pid, self.pid)  # whoever of the two comes first
        except OSError:
            pass

    def adopt(self, pid: int, terminal: bool, ignored: str, settings: str) -> None:
        """Take on the srun that the plugin started (spank_cr/wrap.pxi)."""
        self.pid, self.terminal, self.settings = pid, terminal, settings
        self.look_for_plugin = 0.0  # it is there: it has started this
        self.ignored = {number for number, flag in enumerate(ignored, 1) if flag == "1"}

    def serve(self) -> int:
        """Forward signals and hear the plugin until srun has ended; return its wait status."""
        import select
        import signal

        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        # Those that the shell ignores too (SIGINT of a background job): srun waits for its signals
        # with sigwait, which gets them all the same. Only nohup keeps its word.
        kept = {signal.SIGKILL, signal.SIGSTOP} | self.ignored & {signal.SIGHUP}
        for number in signal.valid_signals() - kept:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        poll = select.poll()
        poll.register(wake_read, select.POLLIN)
        poll.register(self.listener.socket.fileno(), select.POLLIN)
        self.listener.sweep()
        status = self.reap()
        while status is None:
            for descriptor, _ in poll.poll(self.timeout()):
                if descriptor == wake_read:
                    for byte in os.read(wake_read, 4096):
                        self.forward(byte)
                elif descriptor == self.listener.socket.fileno():
                    self.accept(poll)
                elif self.keeper is not None and descriptor == self.keeper.descriptor:
                    self.hear_keeper(self.keeper, poll)
                else:
                    self.hear(descriptor, poll)
            self.drop_slow(poll)
            self.check_plugin()
            # Last: a SIGCONT among the signals must reach srun before its stop is looked at.
            status = self.reap()
        return status

    def timeout(self) -> int | None:
        """Return the milliseconds until something is due, None where nothing is."""
        due = [connection.deadline for connection in self.connections.values()]
        if self.look_for_plugin:
            due.append(self.look_for_plugin)
        return max(0, int((min(due) - time.monotonic()) * 1000) + 1) if due else None

    def forward(self, number: int) -> None:
        """Send a signal on to srun; a stop signal is then obeyed too."""
        import signal

        if number == signal.SIGCHLD:
            return
        if number == signal.SIGCONT:
            self.hand_terminal_over()
        if number == signal.SIGTERM and self.keeper is not None and self.keeper.take_term():
            return
        try:
            os.kill(self.pid, number)
        except OSError:
            pass
        if number in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
            self.stop(number, whole_group=False)

    def start_keeper(self, poll) -> None:  # type: ignore[no-untyped-def]
        """Start the step's keeper, where its options ask for one."""
        settings = self.settings or self.listener.settings()
        if not settings or self.step is None:
            return
        from pycr.srun_cr.keeper import StepKeeper

        self.keeper = StepKeeper(say=True)
        generation = os.environ.get("SLURM_RESTART_DIR", "")
        self.keeper.start(*self.step[:2], settings, generation)
        if self.keeper.pid:
            poll.register(self.keeper.descriptor, POLLIN)

    def hear_keeper(self, keeper: StepKeeper, poll) -> None:  # type: ignore[no-untyped-def]
        """Take in what the keeper says; send a SIGTERM on that it could do nothing with."""
        descriptor = keeper.descriptor
        if keeper.hear():
            try:
                os.kill(self.pid, 15)
            except OSError:
                pass
        if keeper.descriptor < 0:
            poll.unregister(descriptor)

    def reap(self) -> int | None:
        """Return srun's wait status when it has ended; stop with it when it has stopped."""
        if self.looking and os.waitpid(self.looking, os.WNOHANG)[0]:
            self.looking = 0
        pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return None
        if os.WIFSTOPPED(status):
            # A Ctrl-Z went to srun's group alone: the group it would have gone to stops as well.
            self.stop(os.WSTOPSIG(status), whole_group=self.terminal)
            return None
        return status

    def stop(self, number: int, whole_group: bool) -> None:
        """Stop as a signal would have, and see to the terminal on both sides of it."""
        import signal

        self.take_terminal_back()
        before = signal.getsignal(number)
        if number != signal.SIGSTOP:
            signal.signal(number, signal.SIG_DFL)
        if whole_group:
            os.killpg(os.getpgrp(), number)
        else:
            os.kill(os.getpid(), number)
        # Here it goes on, after SIGCONT, whose own handler sends it to srun. That srun stopped too
        # may still be to be reaped: it must not stop this one again.
        try:
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG)
        except ChildProcessError:
            pass
        if number != signal.SIGSTOP:
            signal.signal(number, before)

    def hand_terminal_over(self) -> None:
        """Make srun's group the terminal's foreground group if this one's is."""
        self._foreground(os.getpgrp(), self.pid)

    def take_terminal_back(self) -> None:
        """Make this group the terminal's foreground group if srun's is."""
        self._foreground(self.pid, os.getpgrp())

    def _foreground(self, old: int, new: int) -> None:
        import signal

        try:
            if os.tcgetpgrp(0) != old:
                return
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
            os.tcsetpgrp(0, new)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        except OSError:
            pass

    def accept(self, poll) -> None:  # type: ignore[no-untyped-def]
        """Take a connection, if it is this user's."""
        try:
            descriptor, uid = self.listener.accept()
        except OSError:
            return
        if uid != os.geteuid() or len(self.connections) >= MAX_CONNECTIONS:
            why = "too many at once" if uid == os.geteuid() else f"it is of uid {uid}"
            say(f"dropped a connection: {why}")
            os.close(descriptor)
            return
        self.connections[descriptor] = Connection(descriptor)
        poll.register(descriptor, POLLIN)

    def hear(self, descriptor: int, poll) -> None:  # type: ignore[no-untyped-def]
        """Take in what a connection sends."""
        try:
            frame = self.connections[descriptor].read()
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            say(f"dropped a connection: {error}")
            self.close(descriptor, poll)
            return
        if frame is None:
            if not self.connections[descriptor].data:
                self.close(descriptor, poll)
            return
        self.close(descriptor, poll)
        self.frames += 1
        self.step = frame
        if self.frames == 1:
            self.start_keeper(poll)

    def drop_slow(self, poll) -> None:  # type: ignore[no-untyped-def]
        """Drop what has not sent its frame in time."""
        now = time.monotonic()
        for descriptor in [fd for fd, each in self.connections.items() if each.deadline < now]:
            say(f"dropped a connection: no frame within {SLOW:.0f} s")
            self.close(descriptor, poll)

    def close(self, descriptor: int, poll) -> None:  # type: ignore[no-untyped-def]
        poll.unregister(descriptor)
        del self.connections[descriptor]
        os.close(descriptor)

    def check_plugin(self, at_end: bool = False) -> None:
        """Say once that the plugin is missing, if it is.

        Up to 25.05 srun sends a frame of its own, so one alone does not prove the plugin.
        """
        if not self.look_for_plugin or self.frames >= 2:
            self.look_for_plugin = 0.0
            return
        if not at_end and time.monotonic() < self.look_for_plugin:
            return
        self.look_for_plugin = 0.0
        if at_end:
            look_for_plugin()
            return
        # In a process of its own: with slurmctld down, Slurm's answer takes minutes.
        try:
            self.looking = os.fork()
        except OSError:
            return
        if self.looking == 0:
            import signal

            signal.set_wakeup_fd(-1)
            look_for_plugin()
            os._exit(0)


def in_job() -> bool:
    """Tell whether this runs in a batch script or a task, where it can be dumped with it.

    The plugin decides by the same (spank_cr/wrap.pxi). A terminal is never part of a checkpoint.
    """
    inside = "SLURM_JOB_ID" in os.environ and "SLURMD_NODENAME" in os.environ
    return inside and not any(os.isatty(descriptor) for descriptor in (0, 1, 2))


def adopted(argv: list[str], told: dict[str, str]) -> Wrapper | None:
    """Return the wrapper of an srun that the plugin has started, None where it has not."""
    try:
        child, descriptor = int(told["CHILD"]), int(told["LISTENER"])
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ValueError, ChildProcessError):
        return None  # not told, or told an ancestor of this one
    wrapper = Wrapper(argv, Listener(told["SOCKET"], descriptor))
    wrapper.adopt(child, told["TERMINAL"] == "1", told["IGNORED"], told["SETTINGS"])
    return wrapper


def main() -> NoReturn:
    """Run srun with this command line and end as it does."""
    told = {name: os.environ.pop(f"SRUN_CR_{name}", "") for name in VARIABLES}
    wrapper = adopted(sys.argv[1:], told)
    if wrapper is None:
        srun = told["SRUN"] or which("srun")
        if in_job():
            from pycr.srun_cr import job

            job.run(srun, sys.argv[1:], told["SETTINGS"])
        try:
            wrapper = Wrapper(sys.argv[1:], Listener())
        except OSError as error:
            say(f"couldn't make a socket in {PLACE}: {error.strerror}")
            os._exit(1)
        wrapper.start(srun)
    try:
        status = wrapper.serve()
        if wrapper.frames == 0 and status == 0:
            wrapper.check_plugin(at_end=True)
    finally:
        wrapper.listener.remove()
    wrapper.take_terminal_back()
    end_as(status, wrapper.terminal)
