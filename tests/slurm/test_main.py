# SPDX-License-Identifier: GPL-2.0-or-later
"""The main jobs: a step, and a batch script with its steps, are checkpointed and stopped, and go on
elsewhere as if nothing had been.

Runs on every release that pycr supports (make test runs it on two).
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.login import Login, until
from tests.victims.scripted import Scripted

TASKS, LINES = 4, 100


def assert_whole(text: str, tasks: int = TASKS, lines: int = LINES) -> None:
    """Every task's every number, each once."""
    counted = Counter(text.splitlines())
    wanted = Counter(f"{task} {line}" for task in range(tasks) for line in range(lines))
    assert counted == wanted


@pytest.mark.parametrize("layout", ["-N2", "-N4", "-N1"])
def test_vacated_step_goes_on_in_another_layout(alice: Login, layout: str) -> None:
    victim = alice.victim("count.py")
    job = alice.popen("srun", "--cr", "-N2", f"-n{TASKS}", victim, str(LINES), "3")
    step = alice.step()
    until("some output", lambda: alice.pycr("create", step, "--image-dir", ".").returncode == 0)
    vacated = alice.pycr("vacate", step, "--image-dir", ".")
    assert vacated.returncode == 0, vacated.stderr
    first = job.communicate(timeout=30)[0]
    assert 0 < len(first.splitlines()) < TASKS * LINES
    assert step not in alice.steps()
    again = alice.pycr("restart", "--image-dir", ".", step, layout)
    assert again.returncode == 3, again.stderr
    assert_whole(first + again.stdout)


SCRIPT = """#!/bin/bash
for i in a b c; do
    echo "$i with ${SLURM_RESTART_COUNT:-0} restarts"
    srun ./say.sh $i 8 3 | tee -a copy
    echo "status ${PIPESTATUS[0]}"
done
until [ -e end ]; do sleep 0.1; done
exit 5
"""


def test_vacated_and_requeued_job_goes_on(alice: Login) -> None:
    """In a new job on another node, under its own id, and in a new job again."""
    options = ("--cr", "-N1", "-n1")
    unbroken = Scripted(alice, "unbroken", SCRIPT, *options)
    broken = Scripted(alice, "broken", SCRIPT, *options)
    unbroken.start()
    left = broken.live(["vacate a.0 2", "requeue b.0 3", "create b.0 6", "vacate c.0 2"])
    assert broken.job_id != unbroken.job_id
    assert left == unbroken.finish()
    assert left.status == "5:0"
