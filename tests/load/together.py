# SPDX-License-Identifier: GPL-2.0-or-later
"""20 steps checkpointed at once: by one user, by two, and as the steps of one job."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Sequence

from tests.login import until
from tests.victims.ticking import Ticking

from .bed import PLENTY, Bed, end_all, median, must, start, timed

STEPS = 20
NODES = 4


def one_user() -> Bed:
    """20 jobs of one user's, a step each."""
    return _together("one-user", ["alice"])


def two_users() -> Bed:
    """10 jobs of each of two users, a step each."""
    return _together("two-users", ["alice", "bob"])


def one_job() -> Bed:
    """20 steps of one job, by one `pycr create JOB`: one common moment for all of them."""
    bed = Bed("one-job", NODES)
    try:
        alice = bed.login("alice")
        must(alice, "salloc", "--no-shell", f"-N{NODES}", "--ntasks-per-node=8")
        job = str(until("the job", lambda: alice.jobs() and alice.jobs()[0]))
        inside = f"--jobid={job}"
        steps = []
        for number in range(STEPS):
            login = bed.login("alice", str(number))
            steps.append(start(login, 1, inside, "--exact", "-n1", "-N1", "-c1", "--mem=500"))
        single = median(lambda: must(alice, "pycr", "create", steps[0].step, "--image-dir", "."))
        every = median(lambda: must(alice, "pycr", "create", job, "--image-dir", "."))
        bed.ratio(f"pycr create of {STEPS} steps / of one", every, single)
        for step in steps:
            step.goes_on()
        must(alice, "pycr", "vacate", job, "--image-dir", ".")
        for step in steps:
            step.end()
        must(alice, "scancel", job)
        again = timed(lambda: _restart(steps, alice.dir))
        bed.ratio(f"{STEPS} pycr restart at once / pycr create of one step", again, single)
        end_all(steps)
    finally:
        bed.close()
    return bed


def _together(name: str, users: Sequence[str]) -> Bed:
    bed = Bed(name, NODES)
    try:
        steps = []
        for number in range(STEPS):
            login = bed.login(users[number % len(users)], str(number))
            steps.append(start(login, 1, "-n1", "--mem=500"))
        first = steps[0]
        single = median(lambda: first.create("--image-dir", "."))
        every = median(lambda: _all_at_once(steps, "create"))
        bed.ratio(f"{STEPS} pycr create at once / one", every, single)
        for step in steps:
            step.goes_on()
        gone = timed(lambda: _all_at_once(steps, "vacate"))
        bed.ratio(f"{STEPS} pycr vacate at once / one pycr create", gone, single)
        for step in steps:
            step.end()
        again = timed(lambda: _restart(steps, "."))
        bed.ratio(f"{STEPS} pycr restart at once / one pycr create", again, single)
        end_all(steps)
    finally:
        bed.close()
    return bed


def _all_at_once(steps: Sequence[Ticking], verb: str) -> None:
    """Checkpoint each by a command of its own, all at the same time; all must succeed."""
    running: list[subprocess.Popen[str]] = [
        step.login.popen("pycr", verb, step.step, "--image-dir", ".") for step in steps
    ]
    for step, process in zip(steps, running):
        _, said = process.communicate(timeout=PLENTY)
        assert process.returncode == 0, f"{step.step}: {said}"


def _restart(steps: Sequence[Ticking], image_dir: str) -> None:
    """Restart all at the same time, and wait until all go on."""
    seen = [step.beats() for step in steps]
    for step in steps:
        step.process = step.login.popen("pycr", "restart", "--image-dir", image_dir, step.step)
    for step, then in zip(steps, seen):
        until(f"{step.step} to tick again", functools.partial(step.ticked, then), PLENTY)
