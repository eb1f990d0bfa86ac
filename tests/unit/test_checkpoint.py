# SPDX-License-Identifier: GPL-2.0-or-later
"""slurm_checkpoint(3) in Python: its names, its errors, and what its import costs."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from pycr import checkpoint, errors, eslurm

# As slurm_checkpoint(3) has them; what it returns through a pointer is returned here.
PARAMETERS = {
    "able": "job_id step_id",
    "complete": "job_id step_id start_time error_code error_msg",
    "create": "job_id step_id max_wait image_dir",
    "disable": "job_id step_id",
    "enable": "job_id step_id",
    "error": "job_id step_id",
    "requeue": "job_id max_wait image_dir",
    "restart": "job_id step_id stick image_dir",
    "tasks": "job_id step_id begin_time image_dir max_wait nodelist",
    "vacate": "job_id step_id max_wait image_dir",
}
LARGE = [
    "argparse",
    "json",
    "re",
    "subprocess",
    "logging",
    "pathlib",
    "inspect",
    "typing",
    "pycr.coordinator",
    "pycr.slurm",
]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    """In their order; what has a default is none of the C function's without one."""
    found = inspect.signature(getattr(checkpoint, name)).parameters.values()
    assert [each.name for each in found if each.kind != each.KEYWORD_ONLY] == (
        PARAMETERS[name].split()
    )
    assert getattr(checkpoint, name).__doc__


def test_import_is_light() -> None:
    """Nothing that takes long is imported with it."""
    text = "import sys; old = set(sys.modules); import pycr.checkpoint; print(*sys.modules.keys())"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-S", "-c", text], cwd=root, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()).isdisjoint(LARGE)
    assert len([name for name in done.stdout.split() if name.startswith("pycr")]) == 3


def test_all_is_exported() -> None:
    """What eslurm.py has for callers is in checkpoint.py too."""
    theirs = {name for name in vars(eslurm) if name[0].isupper()} - {"TYPE_CHECKING"}
    assert theirs | {"NO_VAL", "SLURM_BATCH_SCRIPT", *PARAMETERS} <= set(checkpoint.__all__)


def raising(failure: BaseException) -> NoReturn:
    raise failure


@pytest.mark.parametrize(
    ("failure", "kind", "number", "text"),
    [
        (errors.NoSuchJob("x"), checkpoint.InvalidJobId, 2017, "Invalid job id specified"),
        (errors.AccessDenied("x"), checkpoint.AccessDenied, 2002, "Access/permission denied"),
        (errors.JobPending("x"), checkpoint.JobPending, 2024, "Job is pending execution"),
        (errors.GeometryError("x"), checkpoint.BadTaskCount, 2025, None),
        (errors.NoSuchUser("x"), checkpoint.UserIdMissing, 2010, "Invalid user id"),
        (errors.Disabled("x"), checkpoint.Disabled, 2037, None),
        (errors.Suspended("x"), checkpoint.Disabled, 2037, None),
        (errors.Later("x"), checkpoint.AlreadyInProgress, 114, os.strerror(114)),
        (errors.SlurmError("x"), checkpoint.Unspecified, -1, "Unspecified error"),
        (errors.UsageError("x"), checkpoint.InvalidArgument, 22, os.strerror(22)),
        (errors.ImageError("x"), checkpoint.NoCheckpoint, 2, os.strerror(2)),
        (errors.TimedOut("x"), checkpoint.TimedOut, 110, os.strerror(110)),
        (errors.DirectoryError("x"), checkpoint.WritingToFile, 2019, None),
        (OSError(28, "x"), checkpoint.WritingToFile, 2019, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors(
    failure: Exception, kind: type[checkpoint.SlurmError], number: int, text: str | None
) -> None:
    with pytest.raises(checkpoint.SlurmError) as told:
        eslurm.told(lambda: raising(failure))
    assert type(told.value) is kind
    assert told.value.errno == number and told.value.strerror == (text or kind.strerror)
    assert str(told.value) == str(failure) and told.value.__cause__ is failure


def test_every_number_of_pycrs_has_its_class() -> None:
    """A number in errors.py that checkpoint.py has no class for would be lost."""
    ours = {each.eslurm for each in vars(errors).values() if hasattr(each, "eslurm")}
    theirs = {each.errno for each in checkpoint.SlurmError.__subclasses__()}
    assert ours - {0} == theirs - {-1, 2, 22, 110, 2019}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(3, checkpoint.InvalidJobId), (13, checkpoint.AlreadyInProgress), (16, checkpoint.Disabled)],
)
def test_exit_statuses(status: int, kind: type[checkpoint.SlurmError]) -> None:
    with pytest.raises(kind, match=r"^why$"):
        eslurm.told(lambda: eslurm.fail(status, "why"))


@pytest.mark.parametrize("status", [1, 14, 130, -9, 99])
def test_other_exit_statuses(status: int) -> None:
    with pytest.raises(checkpoint.Unspecified, match=r"^why$"):
        eslurm.told(lambda: eslurm.fail(status, "why"))


@pytest.mark.parametrize("job_id", [0, -1, 10**9, checkpoint.NO_VAL])
def test_no_job(job_id: int) -> None:
    with pytest.raises(checkpoint.InvalidJobId):
        checkpoint.able(job_id, 0)


@pytest.mark.parametrize("step_id", [-1, 0xFFFFFFF1, 0xFFFFFFFD])
def test_no_step(step_id: int) -> None:
    with pytest.raises(checkpoint.InvalidJobId):
        checkpoint.disable(1, step_id)
