# SPDX-License-Identifier: GPL-2.0-or-later
"""What a step was given, as Slurm says it, and the srun that asks for the like."""

from __future__ import annotations

from pathlib import Path

import pytest

from pycr.cli import restart
from pycr.slurm import Job, Step, geometry, geometry_from

from .test_manifest import made

JOB = Job(12, "alice", 1001, "RUNNING", {"Partition": "debug"})


def step(tasks: int, cpus: str) -> Step:
    return Step(12, 0, 1001, "RUNNING", tasks, 1, {"CPUs": cpus, "Name": "app"})


@pytest.mark.parametrize(
    ("tasks", "cpus", "each", "over"),
    [(4, "8", 2, False), (8, "8", 1, False), (9, "8", 0, True), (64, "1", 0, True)],
)
def test_more_tasks_than_processors(tasks: int, cpus: str, each: int, over: bool) -> None:
    """As scontrol shows a step of `srun -O -n64`: CPUs=1 Tasks=64."""
    found = geometry(JOB, step(tasks, cpus))
    assert (found.cpus_per_task, found.overcommit) == (each, over)
    for inside in (False, True):
        command = restart.srun(Path("/d/12.0/0001"), made(), found, [], inside)
        assert ("--overcommit" in command) is over
        assert (f"--cpus-per-task={each}" in command) is (not over and not inside)


@pytest.mark.parametrize("cpus", ["", "0", "(null)"])
def test_unknown_processors_are_not_too_few(cpus: str) -> None:
    found = geometry(JOB, step(4, cpus))
    assert (found.cpus_per_task, found.overcommit) == (0, False)


def test_a_geometry_from_before_overcommit() -> None:
    value = geometry(JOB, step(4, "8"))._asdict()
    del value["overcommit"]
    assert not geometry_from(value).overcommit
