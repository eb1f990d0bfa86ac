# SPDX-License-Identifier: GPL-2.0-or-later
"""The main jobs: a step, and a batch script with its steps, are checkpointed and stopped, and go on
elsewhere as if nothing had been.

Runs on every release that pycr supports (make test runs it on two).
"""

from __future__ import annotations

import pytest

from tests.login import Login, until
from tests.victims.scripted import Scripted
from tests.victims.ticking import Ticking


@pytest.mark.parametrize("layout", ["-N2", "-N4", "-N1"])
def test_vacated_step_goes_on_in_another_layout(alice: Login, layout: str) -> None:
    job = Ticking(alice, 4, "3")
    job.start("-N2")
    job.create()
    job.vacate()
    until("the step to go", lambda: job.step not in alice.steps())
    job.restart(layout)
    job.goes_on()
    assert job.stop() == 3
    job.whole()


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
