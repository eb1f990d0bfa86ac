# SPDX-License-Identifier: GPL-2.0-or-later
"""The keeper of a step (pycr/keeper), as its parent has it: srun_cr, or the monitor in a script.

Started when the step's frame has come, and only where there is something to keep. Only built-in
modules are imported here, as in command.py.
"""

from __future__ import annotations

import os
import sys
import time

from pycr.keeper import FAILED, HOLD, MODULE, PARENT, TERM, VARIABLE
from pycr.settings import NEVER, Settings

HOLD_MOST = 90.0  # seconds that a parent waits for a keeper which puts its job back


def wanted(text: str) -> str:
    """Return the settings that a step's keeper is to have, "" where the step needs none.

    text: the step's own. In a batch job that has a keeper a step has one of its own only for other
    times than the job's.
    """
    own = Settings(text)
    job, _, seconds = os.environ.get(VARIABLE, "").partition(":")
    if job and job == os.environ.get("SLURM_JOB_ID"):
        if own.checkpoint == 0 or str(own.checkpoint) == seconds:
            return ""
        words = f"checkpoint={own.checkpoint} before_end={NEVER} keep={own.keep}"
        return f"{words} checkpoint_dir={own.checkpoint_dir}"
    return text if own.checkpoint or own.before_end not in (0, NEVER) else ""


class StepKeeper:
    """It, from its parent's side; not there until it is started."""

    def __init__(self, say: bool) -> None:
        """say: whether it may say on standard error what it does."""
        self.say = say
        self.pid = 0
        self.write = self.descriptor = -1
        self.asked = False  # to end the step, in place of a SIGTERM
        self.before_end = False
        self.hold_until = 0.0

    def start(self, job_id: int, step_id: int, settings: str, generation: str = "") -> None:
        """Start it, where the settings ask for one."""
        settings = wanted(settings)
        if not settings or self.pid:
            return
        self.before_end = Settings(settings).before_end not in (0, NEVER)
        words = [sys.executable, "-I", "-m", MODULE, f"{job_id}.{step_id}", PARENT, settings]
        try:
            read, self.write = os.pipe2(os.O_CLOEXEC)
            self.descriptor, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self.pid = os.fork()
        except OSError:
            return
        if self.pid == 0:
            try:
                self._become(words + [generation] if generation else words, read, write)
            finally:
                os._exit(127)
        os.close(read)
        os.close(write)

    def _become(self, words: list[str], read: int, write: int) -> None:
        """Be the keeper: nothing of its parent's but the two pipes."""
        import _signal

        _signal.set_wakeup_fd(-1)
        for number in _signal.valid_signals() - {_signal.SIGKILL, _signal.SIGSTOP}:
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        from pycr.slurm import commands

        os.setsid()
        os.dup2(read, 0)
        os.dup2(write, 1)
        os.set_blocking(1, True)
        if not self.say:
            os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
        # Who reads a pipe of the user's is not to wait for the keeper's end.
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:
                try:
                    os.close(int(name))
                except OSError:  # the one that lists them
                    pass
        os.chdir("/")
        os.execve(words[0], words, commands.environment(for_reading=False))

    def take_term(self) -> bool:
        """Have it checkpoint and end the step, in place of a SIGTERM; False: it does not.

        A second SIGTERM is one.
        """
        if not self.before_end or self.write < 0 or self.asked:
            return False
        try:
            os.write(self.write, TERM)
        except OSError:
            return False
        self.asked = True
        return True

    def hear(self) -> bool:
        """Take in what it says; tell whether the SIGTERM that it took is to go on after all."""
        try:
            said = os.read(self.descriptor, 64)
        except BlockingIOError:
            return False
        if not said:
            self.close()
            return self.asked and not self.hold_until
        for byte in said:
            if byte == HOLD[0]:
                self.hold_until = time.monotonic() + HOLD_MOST
            elif byte == FAILED[0]:
                self.hold_until = 0.0
        if FAILED in said and self.asked:
            self.asked = False
            return True
        return False

    def holds(self) -> bool:
        """Tell whether srun's end is to be kept quiet: its script must not go on."""
        return time.monotonic() < self.hold_until and self.descriptor >= 0

    def close(self) -> None:
        """Have done with it; where it runs still, it hears that."""
        for descriptor in (self.write, self.descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self.write = self.descriptor = -1
