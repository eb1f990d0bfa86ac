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
from typing import Any, NoReturn

from pycr.mailbox import Mailbox, Silence, apply_environment
from pycr.srun_cr import dispositions, end_as, exec_srun, look_for_plugin, say
from pycr.srun_socket import PLACE, Listener

ROLE = "srun_cr"
PATIENCE = 2.0  # seconds in which an srun that has begun to launch its step will have told of it


class JobWrapper:
    """srun_cr's own part: signals, the mailbox, and its srun's end."""

    def __init__(self, srun: str, argv: list[str]) -> None:
        self.srun_path, self.argv = srun, argv
        self.mailbox = Mailbox(ROLE)
        self.silence = Silence(self.mailbox)
        self.mask, self.ignored = dispositions()
        self.control = -1
        self.srun = 0
        self.step = ""
        self.status: int | None = None
        self.question: dict[str, Any] | None = None
        self.pause_at = 0.0
        self.waiting = False

    def start(self, restart_dir: str = "") -> None:
        """Start srun, with a monitor of its own between it and everything else. Raises OSError."""
        listener = Listener()
        environment = {**os.environ, "SLURM_SRUN_CR_SOCKET": listener.path}
        argv = self.argv
        if restart_dir:
            environment["SLURM_RESTART_DIR"] = restart_dir
            environment["SLURM_OPEN_MODE"] = "append"
            # The command line would win over the variable.
            argv = [word for word in argv if not word.startswith("--restart-dir=")]
        read, write = os.pipe2(os.O_CLOEXEC)
        between = os.fork()
        if between == 0:
            try:
                if os.fork() == 0:
                    os.close(write)
                    self.be_monitor(read, listener, argv, environment)
            finally:
                os._exit(0)
        os.waitpid(between, 0)
        os.close(read)
        listener.socket.close()
        self.control, self.srun, self.step = write, 0, ""

    def be_monitor(
        self, control: int, listener: Listener, argv: list[str], environment: dict[str, str]
    ) -> NoReturn:
        """Be the monitor: start srun and stay with it."""
        import signal

        from pycr.monitor import COMM, Monitor

        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            os.setsid()
            with open("/proc/self/comm", "w") as file:
                file.write(COMM)
            self.mailbox.only_post()
            monitor = Monitor(self.mailbox, control, listener)
            self.start_srun(monitor, argv, environment)
            # What a terminal or a `kill 0` sends is for the script's processes.
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)
            os.chdir("/")
            monitor.listener.sweep()
            monitor.run()
        except OSError as error:
            say(f"couldn't start srun: {error.strerror}")
            listener.remove()
            self.mailbox.post(do="ended", status=127 << 8)
            status = 127
        finally:
            os._exit(status)

    def start_srun(self, monitor: Any, argv: list[str], environment: dict[str, str]) -> None:
        """Fork srun, its output going through the monitor where it is a file or a pipe."""
        import signal
        import stat

        pipes: dict[int, tuple[int, int]] = {}
        for target in (1, 2):
            try:
                status = os.fstat(target)
            except OSError:
                continue
            if stat.S_ISCHR(status.st_mode):
                continue
            if target == 2 and 1 in pipes and os.path.samestat(status, os.fstat(1)):
                pipes[2] = pipes[1]  # one stream, so that the order of its lines stays
            else:
                pipes[target] = os.pipe2(os.O_CLOEXEC)
        keep = set(monitor.descriptors())
        keep.update(end for pair in pipes.values() for end in pair)
        monitor.srun = os.fork()
        if monitor.srun == 0:
            os.setpgid(0, 0)
            for target, (_, write) in pipes.items():
                os.dup2(write, target)
            exec_srun(self.srun_path, argv, environment, self.mask, self.ignored)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        for _, write in pipes.values():
            keep.discard(write)
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) not in keep:
                try:
                    os.close(int(name))
                except OSError:
                    pass
        for target, (read, _) in pipes.items():
            if target == 1 or pipes.get(1) != pipes[2]:
                monitor.add(target, read)

    def serve(self) -> int:
        """Forward signals, answer questions and hear of srun, until it has ended; return its wait
        status."""
        import select
        import signal

        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            if number != signal.SIGHUP or number not in self.ignored:
                signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        poll = select.poll()
        poll.register(wake_read, select.POLLIN)
        poll.register(self.mailbox.request, select.POLLIN)
        pending: list[int] = []
        while self.status is None or self.waiting:
            ready = {descriptor for descriptor, _ in poll.poll(self.timeout())}
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
                for number in pending:
                    self.forward(number)
                pending = []
        return self.status

    def timeout(self) -> int | None:
        """Return the milliseconds until something is due, None where nothing is."""
        if self.pause_at:
            return max(1, int((self.pause_at - time.monotonic()) * 1000))
        return 1000 if self.waiting else None

    def forward(self, number: int) -> None:
        """Send a signal on to srun."""
        import signal

        if number != signal.SIGCHLD:
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
            self.srun = int(message["srun"])
        elif do == "step":
            self.step = f"{message['job']}.{message['step']}"
            self.answer()
        elif do == "paused":
            self.answer()
        elif do == "ended":
            self.status, self.srun = int(message["status"]), 0
            self.answer()
        elif do == "checkpoint":
            self.question = message
            if self.step or self.status is not None or self.waiting:
                self.answer()
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
            self.mailbox.answer(self.question, "ready", step=step)
            self.question, self.waiting, self.pause_at = None, True, 0.0

    def go_on(self) -> None:
        """Do as if nothing had been."""
        self.question, self.waiting, self.pause_at = None, False, 0.0
        self.tell(b"r")

    def restarted(self, message: dict[str, Any]) -> None:
        """Go on in a restored process: its monitor and its srun are no more."""
        from pycr import image

        self.mailbox.renew()
        self.question, self.waiting, self.pause_at = None, False, 0.0
        os.close(self.control)
        apply_environment(message.get("environment", {}))
        generation = str(message["image_dir"])
        for target, data in image.read_late(generation, os.getpid()).items():
            write_all(target, data)
        if self.status is not None:
            return
        try:
            self.start(f"{generation}/{self.step}" if self.step else "")
        except OSError as error:
            say(f"couldn't start srun again: {error.strerror}")
            self.status = 127 << 8


def write_all(target: int, data: bytes) -> None:
    """Write all of it; where nobody reads, srun's own output would be lost too."""
    while data:
        try:
            data = data[os.write(target, data) :]
        except OSError:
            return


def run(srun: str, argv: list[str]) -> NoReturn:
    """Run srun with this command line and end as it does."""
    import signal

    wrapper = JobWrapper(srun, argv)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Until serve() has its handlers no signal may end this process and leave srun alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        wrapper.start()
    except OSError as error:
        say(f"couldn't make a socket in {PLACE}: {error.strerror}")
        os._exit(1)
    status = wrapper.serve()
    if status == 0 and not wrapper.step:
        look_for_plugin()
    end_as(status)
