# SPDX-License-Identifier: GPL-2.0-or-later
"""srun in a restored batch script: the new job's variables in the old ones' place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pycr import protocol

from .conftest import HERE, plain_python
from .driver import USER, Host, Run

ADDRESS = "pycr-test-{}"
ENV = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_OLD_ONLY": "x", "HOME": "/h"}
COULD_NOT = "cr: couldn't learn the new job's environment: "
Inside = Callable[..., Run]
pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def inside(host: Host, place: Path) -> Inside:
    """Return a function that runs the host below a pod's stub."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare to make a PID namespace with")
    package = place / "pycr"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(HERE / "pod_stub.py", package / "pod.py")

    def run(
        answer: dict[str, list[str | None]] | str,
        *look: str,
        module: str = "pycr.pod",
        env: dict[str, str] = ENV,
        context: str = "local",
        before: tuple[str, ...] = (),
        **orders: object,
    ) -> Run:
        text = answer if isinstance(answer, str) else protocol.environment(answer)
        wanted = {"listens": True, "uid": 0, "silent": False, "answer": text, **orders}
        (place / "orders").write_text(json.dumps(wanted), encoding="ascii")
        words = ["7", "0", "0", "0", "1", "n1", "", "0", "1024", str(place), "8", "9"]
        words += [ADDRESS.format(os.getpid()), "10", "/script", "0", "11", "12", "cut"]
        line = ["python3", "-B", "-m", "pycr.pod", *words]
        assert protocol.pod_address(line) == words[12]
        first = (*before, f"context {context}", "call init")
        script = "".join(f"{each}\n" for each in (*first, *look))
        if module != "pycr.pod":
            package.joinpath("pod.py").rename(package / f"{module.partition('.')[2]}.py")
            line[3] = module
        done = subprocess.run(
            ["unshare", "-pf", "--mount-proc", "--", plain_python(), *line[1:]]
            + [str(host.program), str(host.plugin)],
            input=script,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=place,
            env=env,
            timeout=60,
            check=False,
        )
        host.check()
        made = Run(done.stdout.splitlines(), done.returncode)
        assert "done" in made.lines, made.lines
        return made

    return run


def test_takes_the_new_jobs_variables(inside: Inside) -> None:
    changes: dict[str, list[str | None]] = {
        "SLURM_JOB_ID": ["12", "7"],
        "SLURM_NEW": ["a=b c", None],
        "SLURM_EMPTY": ["", None],
        "SLURM_OLD_ONLY": [None, "x"],
    }
    run = inside(changes, *(f"getenv {name}" for name in (*changes, "SLURM_NNODES", "HOME")))
    assert run.one("asked") == repr('{"do":"environment"}\n')
    for line in ("SLURM_JOB_ID=12", "SLURM_NEW=a=b c", "SLURM_EMPTY=", "SLURM_OLD_ONLY unset"):
        assert line in run.lines
    assert "SLURM_NNODES=2" in run.lines
    assert "HOME=/h" in run.lines
    assert not run.errors


@pytest.mark.parametrize("values", [["3", "1"], ["3", None], [None, "1"], ["3", ""], ["3"]])
def test_what_the_script_has_set_itself_stays(inside: Inside, values: list[str | None]) -> None:
    run = inside({"SLURM_NNODES": values}, "getenv SLURM_NNODES")
    assert "SLURM_NNODES=2" in run.lines


@pytest.mark.parametrize("new", ["3", None])
def test_what_the_script_has_unset_itself_stays_unset(inside: Inside, new: str | None) -> None:
    run = inside({"SLURM_GONE": [new, "1"]}, "getenv SLURM_GONE")
    assert "SLURM_GONE unset" in run.lines


def test_what_it_was_in_any_job_before_is_not_the_scripts_own(inside: Inside) -> None:
    """A subshell may have been started before the last restart, or the one before that."""
    for past in (["7", "8", "9"], ["9", "7"], [None, "7"]):
        run = inside({"SLURM_JOB_ID": ["12", *past]}, "getenv SLURM_JOB_ID")
        assert "SLURM_JOB_ID=12" in run.lines


def test_an_empty_variable_is_not_an_unset_one(inside: Inside) -> None:
    run = inside({"SLURM_E": ["1", ""]}, "getenv SLURM_E", env={**ENV, "SLURM_E": ""})
    assert "SLURM_E=1" in run.lines


def test_more_than_one_buffer(inside: Inside) -> None:
    changes: dict[str, list[str | None]] = {
        f"SLURM_V{each}": ["x" * 1000, None] for each in range(200)
    }
    run = inside(changes, "getenv SLURM_V0", "getenv SLURM_V199")
    assert f"SLURM_V0={'x' * 1000}" in run.lines
    assert f"SLURM_V199={'x' * 1000}" in run.lines


def test_nothing_is_otherwise(inside: Inside) -> None:
    run = inside({}, "getenv SLURM_JOB_ID")
    assert "SLURM_JOB_ID=7" in run.lines
    assert not run.errors


@pytest.mark.parametrize(
    "text", ["SLURM_JOB_ID", "SLURM_JOB_ID\0", "SLURM_JOB_ID\0=12\0=7\0", "\0\0\0", "A\0\0\0"]
)
def test_half_an_answer_changes_nothing(inside: Inside, text: str) -> None:
    run = inside(text, "getenv SLURM_JOB_ID")
    assert "SLURM_JOB_ID=7" in run.lines


def test_sbatch_and_salloc_take_them_too(inside: Inside) -> None:
    run = inside({"SLURM_JOB_ID": ["12", "7"]}, "getenv SLURM_JOB_ID", context="allocator")
    assert "SLURM_JOB_ID=12" in run.lines


def test_another_users_pod(inside: Inside) -> None:
    run = inside({"SLURM_JOB_ID": ["12", "7"]}, "getenv SLURM_JOB_ID", uid=USER)
    assert run.one("asked") == repr("")
    assert "SLURM_JOB_ID=7" in run.lines
    assert run.errors == [f"{COULD_NOT}Permission denied"]


def test_a_pod_that_does_not_listen(inside: Inside) -> None:
    run = inside({}, "getenv SLURM_JOB_ID", listens=False)
    assert "SLURM_JOB_ID=7" in run.lines
    assert run.errors == [f"{COULD_NOT}Connection refused"]


def test_a_pod_that_does_not_answer(inside: Inside) -> None:
    run = inside(
        {"SLURM_JOB_ID": ["12", "7"]}, "getenv SLURM_JOB_ID", silent=True, before=("hurry",)
    )
    assert run.one("patience") == "10"
    assert run.errors == [f"{COULD_NOT}Resource temporarily unavailable"]
    assert "SLURM_JOB_ID=7" in run.lines


def test_another_first_process(inside: Inside) -> None:
    """As in a container, or where the script was not restored: nobody is asked."""
    run = inside(
        {"SLURM_JOB_ID": ["12", "7"]}, "getenv SLURM_JOB_ID", module="pycr.other", listens=False
    )
    assert "SLURM_JOB_ID=7" in run.lines
    assert not run.errors
