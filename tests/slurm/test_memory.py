# SPDX-License-Identifier: GPL-2.0-or-later
"""A job that uses nearly all of its memory: a checkpoint that does not get any must not end it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.login import Login, until

LIMIT = 200  # MiB, and what the victim leaves of it, beside 7 for its Python
ENOUGH, LITTLE = 60, 14


@pytest.fixture
def confined(cluster: Any) -> None:
    if cluster.status()["plugins"]["cgroup"] == "disabled":
        pytest.skip("expected: this machine gives no memory cgroup, so no job is confined")


@pytest.mark.usefixtures("confined")
@pytest.mark.parametrize("left", [ENOUGH, LITTLE])
def test_the_tasks_come_first(alice: Login, left: int) -> None:
    """The kernel would end the largest process, the task; it ends the helper."""
    words = [alice.victim("memory.py"), str(LIMIT - left), "ready", "go"]
    process = alice.popen("srun", "-n1", f"--mem={LIMIT}", *words, env={"CHECK": "1"})
    until("its memory", lambda: [*alice.place.glob("ready.*")])
    step = alice.step()
    for _ in range(3):
        done = alice.pycr("create", step, "--image-dir", ".")
        if left == ENOUGH:
            assert done.returncode == 0, done.stderr
            continue
        assert done.returncode == 14
        assert done.stderr == (
            f"pycr: step {step}: node n0: the helper did not get the memory that it needs; the"
            " tasks run on: the job's limit must leave 64 MiB a node for a checkpoint\n"
        )
        until("its helper to end", lambda: alice.steps() == [step])
        assert not [path.name for path in alice.place.glob("*.*/0*")]
    (alice.place / "go").touch()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, f"{out}{err}"
