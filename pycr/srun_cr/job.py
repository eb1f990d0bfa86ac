# SPDX-License-Identifier: GPL-2.0-or-later
"""srun_cr in a job, where it can be dumped with the batch script it runs in, and restored.

Its srun is outside of the script's process tree (monitor.py has the picture). When it is asked for
a checkpoint it says which step it waits for, or holds back an srun that has launched none; then it
does nothing until it is told how that ended. A restored one starts srun again: with the image of
its step's tasks, or afresh where none had been launched; or it just ends, where its step had ended.

    starting --- step ---> launched --- ended ---> ends as srun did
        |  question: wait PATIENCE for the step, then pause srun
        `- restored: starting again            launched restored: starting with SLURM_RESTART_DIR
"""

from __future__ import annotations

import os
import time

from pycr.mailbox import MONITOR_COMM, Mailbox, Silence, apply_environment
from pycr.srun_cr import step
from pycr.srun_cr.frames import PLACE, Listener
from pycr.srun_cr.process import dispositions, end_as, exec_srun, look_for_plugin, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

ROLE = "srun_cr"
RESTARTS = ("--restart-dir", "--files")
PATIENCE = 2.0  # seconds in which an srun that has begun to launch its step will have told of it


class JobWrapper:
    """srun_cr's own part: signals, the mailbox, and its srun's end."""

    def __init__(self, srun: str, argv: list[str], settings: str = "") -> None:
        self.srun_path, self.argv, self.settings = srun, argv, settings
        self.mailbox = Mailbox(ROLE)
        self.silence = Silence(self.mailbox)
        self.mask, self.ignored = dispositions()
        self.control = -1
        self.owner = self.monitor = 0
        self.srun = 0
        self.step = self.image = ""
        self.launched: Callable[[str], None] | None = None
        self.status: int | None = None
        self.question: dict[str, Any] | None = None
        self.pause_at = 0.0
        self.waiting = False

    def start(self, restart_dir: str = "", files: str = "", by_itself: str = "") -> None:
        """Start srun, with a monitor of its own between it and everything else. Raises OSError.

        restart_dir: the image its tasks are restored from; files: --files of the restart.
        by_itself: names the attempt where another image is tried if it fails (srun_cr/step.py).
        """
        listener = Listener()
        environment = {**os.environ, "SLURM_SRUN_CR_SOCKET": listener.path}
        argv = self.argv
        if restart_dir:
            environment["SLURM_RESTART_DIR"] = restart_dir
            environment["SLURM_OPEN_MODE"] = "append"
            if by_itself:
                environment[step.BY_ITSELF] = by_itself
            else:
                environment["SLURM_RESTART_FILES"] = files
                argv = without_restart(argv)
        read, write = os.pipe2(os.O_CLOEXEC)
        self.owner = os.getpid()
        between = os.fork()
        if between == 0:
            try:
                # From before it is an orphan: what looks at the script must not take it for one.
                with open("/proc/self/comm", "w") as file:
                    file.write(MONITOR_COMM)
                if os.fork() == 0:
                    os.close(write)
                    self.be_monitor(read, listener, argv, environment, restart_dir)
            finally:
                os._exit(0)
        os.waitpid(between, 0)
        os.close(read)
        listener.socket.close()
        self.control, self.srun, self.step, self.image = write, 0, "", restart_dir

    def be_monitor(
        self,
        control: int,
        listener: Listener,
        argv: list[str],
        environment: dict[str, str],
        restart_dir: str,
    ) -> NoReturn:
        """Be the monitor: start srun, before anything that takes time, and stay with it."""
        import _signal

        owner = self.owner
        status = 127
        try:
            _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
            os.setsid()
            srun, pipes = self.fork_srun(argv, environment)
            _signal.set_wakeup_fd(-1)
            # What a terminal or a `kill 0` sends is for the script's processes.
            kept = {_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGCHLD}
            for number in _signal.valid_signals() - kept:
                _signal.signal(number, _signal.SIG_IGN)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, set())
            from pycr.srun_cr import monitor

            self.mailbox.only_post()
            made = monitor.Monitor(self.mailbox, owner, control, listener, srun)
            made.settings, made.generation = self.settings, restart_dir
            self.close_others(made.descriptors(), pipes)
            for target, (read, _) in pipes.items():
                if target == 1 or pipes.get(1) != pipes[2]:
                    made.add(target, read)
            os.chdir("/")
            listener.sweep()
            made.run()
        except OSError as error:
            say(f"couldn't start srun: {error.strerror}")
            listener.remove()
            self.mailbox.post("ended", status << 8)
        except Exception as error:
            say(f"a fault of pycr's own, in the monitor: {type(error).__name__}: {error}")
        finally:
            os._exit(status)

    def fork_srun(
        self, argv: list[str], environment: dict[str, str]
    ) -> tuple[int, dict[int, tuple[int, int]]]:
        """Fork srun, its output going through pipes where it is a file or a pipe; return its pid
        and the pipes by where they lead."""
        pipes: dict[int, tuple[int, int]] = {}
        for target in (1, 2):
            try:
                status = os.fstat(target)
            except OSError:
                continue
            if status.st_mode & 0o170000 == 0o020000:  # a device: /dev/null
                continue
            if target == 2 and 1 in pipes and os.path.samestat(status, os.fstat(1)):
                pipes[2] = pipes[1]  # one stream, so that the order of its lines stays
            else:
                pipes[target] = os.pipe2(os.O_CLOEXEC)
        srun = os.fork()
        if srun == 0:
            os.setpgid(0, 0)
            for target, (_, write) in pipes.items():
                os.dup2(write, target)
            exec_srun(self.srun_path, argv, environment, self.mask, self.ignored)
        return srun, pipes

    def close_others(self, own: set[int], pipes: dict[int, tuple[int, int]]) -> None:
        """Keep, in the monitor, nothing of the script's but where srun's output goes."""
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        own.update(read for read, _ in pipes.values())
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) not in own:
                try:
                    os.close(int(name))
                except OSError:
                    pass

    def serve(self) -> int:
        """Forward signals, answer questions and hear of srun, until it has ended; return its wait
        status."""
        import _signal
        import select

        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        _signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in _signal.valid_signals() - {_signal.SIGKILL, _signal.SIGSTOP}:
            if number != _signal.SIGHUP or number not in self.ignored:
                _signal.signal(number, lambda *_: None)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _signal.valid_signals())
        poll = select.poll()
        poll.register(wake_read, select.POLLIN)
        poll.register(self.mailbox.request, select.POLLIN)
        pending: list[int] = []
        while self.status is None or self.waiting:
            control = self.control  # restarted() makes a new one
            watched = self.status is None and not self.waiting
            if watched:
                poll.register(control, 0)  # POLLERR: the monitor, which has its other end, is gone
            ready = {descriptor for descriptor, _ in poll.poll(self.timeout())}
            if watched:
                poll.unregister(control)
                if control in ready and self.lost(ready):
                    break
            if wake_read in ready:
                pending += os.read(wake_read, 4096)
            if self.mailbox.request in ready:
                self.silence.heard()
                for message in self.mailbox.read():
                    self.hear(message)
            elif not ready and self.waiting and self.silence.over():
                self.go_on()
            if self.pause_at and time.monotonic() >= self.pause_at:
                self.pause_at = 0.0
                self.tell(b"p")
            if self.srun and not self.waiting:
                for each in pending:
                    self.forward(each)
                pending = []
        assert self.status is not None
        return self.status

    def forget(self) -> None:
        """Be ready for another start(), when srun has ended."""
        os.close(self.control)
        self.control, self.status, self.launched = -1, None, None

    def lost(self, ready: set[int]) -> bool:
        """See whether the monitor was killed, and has left srun behind; end srun then."""
        for message in self.mailbox.read():
            self.hear(message)
        ready.discard(self.mailbox.request)
        if self.status is not None or self.waiting or self.mailbox.restored():
            return False
        say("its monitor was killed")
        if self.srun:
            self.forward(9)
        self.status = 9
        return True

    def timeout(self) -> int | None:
        """Return the milliseconds until something is due, None where nothing is."""
        if self.pause_at:
            return max(1, int((self.pause_at - time.monotonic()) * 1000))
        return 1000 if self.waiting else None

    def forward(self, number: int) -> None:
        """Send a signal on to srun."""
        import _signal

        if number == _signal.SIGTERM and self.step:
            self.tell(b"t")  # to the keeper, if there is one
        elif number != _signal.SIGCHLD:
            try:
                os.kill(self.srun, number)
            except OSError:
                pass

    def tell(self, word: bytes) -> None:
        """Tell the monitor something; one that has ended hears nothing."""
        try:
            os.write(self.control, word)
        except OSError:
            pass

    def hear(self, message: dict[str, Any]) -> None:
        """Take in one message: of the monitor, of the helper that dumps, or of the pod."""
        do = message.get("do")
        if do == "started":
            self.srun, self.monitor = (int(word) for word in message["words"])
        elif do == "step":
            self.step = ".".join(message["words"])
            self.answer()
            if self.launched is not None:
                self.launched(self.step)
        elif do == "paused":
            self.answer()
        elif do == "ended":
            self.status, self.srun = int(message["words"][0]), 0
            self.answer()
        elif do == "checkpoint":
            self.question = message
            if self.step or self.status is not None or self.waiting:
                self.answer()
            elif self.image:  # held back and dumped now, it would begin anew
                reason = f"it has not yet launched the step that goes on from {self.image}"
                self.mailbox.answer(message, "later", reason=reason)
                self.question = None
            else:
                self.pause_at = time.monotonic() + PATIENCE
        elif do == "go on":
            self.go_on()
        elif do == "restarted":
            self.restarted(message)

    def answer(self) -> None:
        """Answer the question that is open: from here on nothing happens but what it leads to."""
        if self.question is not None:
            step = self.step if self.status is None else ""
            self.mailbox.answer(self.question, "ready", step=step, monitor=self.monitor)
            self.question, self.waiting, self.pause_at = None, True, 0.0

    def go_on(self) -> None:
        """Do as if nothing had been."""
        self.question, self.waiting, self.pause_at = None, False, 0.0
        self.tell(b"r")

    def restarted(self, message: dict[str, Any]) -> None:
        """Go on in a restored process: its monitor and its srun are no more."""
        from pycr.images import late

        self.mailbox.renew()
        self.question, self.waiting, self.pause_at = None, False, 0.0
        self.launched = None
        os.close(self.control)
        apply_environment(message.get("environment", {}))
        generation = str(message["image_dir"])
        for target, data in late.read(generation, os.getpid()).items():
            write_all(target, data)
        if self.status is not None:
            return
        try:
            place = f"{generation}/{self.step}" if self.step else ""
            self.start(place, str(message.get("files", "")))
        except OSError as error:
            say(f"couldn't start srun again: {error.strerror}")
            self.status = 127 << 8


def without_restart(argv: list[str]) -> list[str]:
    """Return a command line without a restart's own options, which would win over the variables.

    The command behind the options may lose a word too: it does not run, its image does.
    """
    kept: list[str] = []
    before = ""
    for word in argv:
        if word.partition("=")[0] not in RESTARTS and before not in RESTARTS:
            kept.append(word)
        before = word
    return kept


def write_all(target: int, data: bytes) -> None:
    """Write all of it; where nobody reads, srun's own output would be lost too."""
    while data:
        try:
            data = data[os.write(target, data) :]
        except OSError:
            return


def run(srun: str, argv: list[str], settings: str = "") -> NoReturn:
    """Run srun with this command line and end as it does. settings: what the plugin told."""
    import _signal  # signal itself takes longer to import than srun to be started

    for descriptor in (0, 1, 2):  # one that is closed would become a pipe of the mailbox's
        try:
            os.fstat(descriptor)
        except OSError:
            os.open("/dev/null", os.O_RDWR)
    wrapper = JobWrapper(srun, argv, settings)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    # Until serve() has its handlers no signal may end this process and leave srun alone.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    try:
        status = step.run(wrapper, settings)
    except OSError as error:
        say(f"couldn't make a socket in {PLACE}: {error.strerror}")
        os._exit(1)
    if status == 0 and not wrapper.step:
        look_for_plugin()
    end_as(status)
