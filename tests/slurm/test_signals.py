# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals reach a task once, before and after a restart, whichever plugin tracks its processes.

Which one that is, `python3 -m tests.cluster status` says; pod.slurm_signals_all() has the reason.
"""

from __future__ import annotations

import signal
import time
from collections import Counter

import pytest

from tests.login import Login, until
from tests.victims.ticking import Ticking

TASKS = 4
STILL = 0.3
OUTPUT = ["-o", "out", "-e", "err"]


class Signalled(Ticking):
    """signalled.py in four tasks on two nodes, its output in a file of each life's own."""

    def __init__(self, login: Login) -> None:
        super().__init__(login, TASKS)
        self.command = [login.victim("signalled.py")]

    def begin(self, life: str) -> None:
        """Begin its first life, or one that was restarted."""
        self.start("-N2", *OUTPUT)
        if life == "restarted":
            self.create()
            self.vacate()
            self.restart(*OUTPUT)

    def send(self, name: str) -> None:
        """Send a signal with scancel."""
        done = self.login.run("scancel", "-s", name, self.step)
        assert done.returncode == 0, done.stderr

    def got(self, **wanted: int) -> None:
        """Wait until every task has got signals so often, no more and no less."""
        every = Counter({f"{task} {key}": n for task in range(TASKS) for key, n in wanted.items()})
        until(
            f"{wanted} (there is {self.login.read('out')!r})",
            lambda: Counter(self.login.read("out").splitlines()) >= every,
        )
        self.goes_on()
        assert Counter(self.login.read("out").splitlines()) == every

    def stands_still(self) -> None:
        """Wait until no task ticks, and none has for a while."""

        def still() -> bool:
            seen, since = self.beats(), time.monotonic()
            while self.beats() == seen:
                if time.monotonic() - since > STILL:
                    return True
                time.sleep(0.02)
            return False

        until("all to stand still", still)


@pytest.mark.parametrize("life", ["first", "restarted"])
def test_scancel_signals_once(alice: Login, life: str) -> None:
    """Three USR1, one at a time, and one HUP: each task gets three and one."""
    job = Signalled(alice)
    job.begin(life)
    for count in (1, 2, 3):
        job.send("USR1")
        job.got(USR1=count)
    job.send("HUP")
    job.got(USR1=3, HUP=1)
    job.cancel()


@pytest.mark.parametrize("life", ["first", "restarted"])
def test_scancel_lets_the_task_end_itself(alice: Login, life: str) -> None:
    """Its SIGTERM handler runs, within KillWait, and srun says what it says for that."""
    job = Signalled(alice)
    job.begin(life)
    job.send("TERM")
    assert job.end() == 15
    lines = alice.read("out").splitlines()
    assert sorted(lines) == [f"{task} TERM" for task in range(TASKS)]
    until("the step to go", lambda: not alice.steps())


@pytest.mark.parametrize("life", ["first", "restarted"])
def test_srun_forwards_signals(alice: Login, life: str) -> None:
    """A signal to srun itself, or to srun_cr, goes to every task once."""
    job = Signalled(alice)
    job.begin(life)
    assert job.process is not None
    job.process.send_signal(signal.SIGUSR1)
    job.got(USR1=1)
    job.process.send_signal(signal.SIGUSR2)
    job.got(USR1=1, USR2=1)
    job.cancel()


@pytest.mark.parametrize("life", ["first", "restarted"])
def test_stop_and_continue(alice: Login, life: str) -> None:
    """STOP stops every task, CONT lets all go on."""
    job = Signalled(alice)
    job.begin(life)
    job.send("STOP")
    job.stands_still()
    job.send("CONT")
    job.goes_on()
    job.cancel()


@pytest.mark.parametrize("life", ["first", "restarted"])
def test_stopped_step_is_refused(alice: Login, life: str) -> None:
    """A stopped step is refused at once, with what to do; it stays stopped, and whole."""
    job = Signalled(alice)
    job.begin(life)
    job.send("STOP")
    job.stands_still()
    began = time.monotonic()
    refused = alice.pycr("create", job.step, "--image-dir", ".", "--max-wait", "60")
    assert (refused.returncode, time.monotonic() - began < 30) == (9, True), refused.stderr
    assert refused.stderr.count("\n") == 1
    assert "stopped" in refused.stderr and "scancel -s CONT" in refused.stderr
    job.stands_still()
    job.send("CONT")
    job.goes_on()
    job.create()
    job.goes_on()
    job.cancel()


@pytest.mark.parametrize("life", ["first", "restarted"])
def test_suspend_and_resume(alice: Login, life: str) -> None:
    """scontrol suspend, by the administrator, stops every task; resume lets all go on."""
    job = Signalled(alice)
    job.begin(life)
    job_id = job.step.split(".")[0]
    node = alice.cluster.node("n0")
    node.run(["scontrol", "suspend", job_id], check=True)
    job.stands_still()
    refused = alice.pycr("create", job.step, "--image-dir", ".")
    assert refused.returncode == 14
    assert "suspended" in refused.stderr
    node.run(["scontrol", "resume", job_id], check=True)
    job.goes_on()
    job.cancel()


@pytest.mark.parametrize("life", ["first", "restarted"])
def test_interrupted_twice(alice: Login, life: str) -> None:
    """Ctrl-C twice within a second ends the step at once, and leaves none."""
    job = Signalled(alice)
    job.begin(life)
    assert job.process is not None
    job.process.send_signal(signal.SIGINT)
    job.goes_on()
    process = job.process

    def ended() -> bool:
        """Press again: one that came a second late is a first."""
        process.send_signal(signal.SIGINT)
        return process.poll() is not None

    until("it to end", ended)
    assert job.end() != 0
    until("the step to go", lambda: not alice.steps())
