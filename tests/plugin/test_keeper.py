# SPDX-License-Identifier: GPL-2.0-or-later
"""The keeper in slurmstepd and srun: when it is started, as whom, and which tasks are spared."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from .driver import DEADLINE, STEP, USER, Host, Run
from .test_batch import WHO, script

pytestmark = pytest.mark.usefixtures("root")
TERM = 1 << 14  # SIGTERM in SigIgn


@pytest.fixture
def python(place: Path) -> Path:
    """An interpreter that leaves in `place` what it was started as: its output is nobody's."""
    report = place / "keeper.json"
    path = place / "python3"
    path.write_text(
        "#!/usr/bin/python3 -I\n"
        "import json, os, pathlib, sys\n"
        "status = pathlib.Path('/proc/self/status').read_text().splitlines()\n"
        "fds = {each: os.readlink('/proc/self/fd/' + each) for each in '012'}\n"
        "found = dict(argv=sys.argv[4:], environ=sorted(os.environ), fds=fds, cwd=os.getcwd(),\n"
        "    sid=os.getsid(0), pid=os.getpid(), open=len(os.listdir('/proc/self/fd')),\n"
        "    status=dict(line.split(':', 1) for line in status))\n"
        f"target = pathlib.Path({str(report)!r})\n"
        "target.with_suffix('.new').write_text(json.dumps(found))\n"
        "target.with_suffix('.new').rename(target)\n"
    )
    path.chmod(0o755)
    place.chmod(0o777)
    return path


def started(run: Run, python: Path) -> dict[str, object]:
    """See that the script was started too; return what its keeper was started as."""
    assert run.status == 0, run.lines
    assert "command" in run.lines
    assert set(run.capabilities.values()) == {0}
    report = python.with_name("keeper.json")
    give_up = time.monotonic() + DEADLINE
    while not report.exists():
        assert time.monotonic() < give_up, "no keeper"
        time.sleep(0.02)
    found: dict[str, object] = json.loads(report.read_text())
    return found


def test_beside_a_batch_script(host: Host, python: Path) -> None:
    options = ("cr", "checkpoint=2:00", "cr-before-end", "cr-keep=3")
    run = host.run(script(python, options=options))
    found = started(run, python)
    argv = found["argv"]
    assert isinstance(argv, list)
    assert argv[:1] + argv[2:] == ["7.batch", "checkpoint=120 before_end=-1 keep=3 ", ""]
    assert int(argv[1]) > 1
    assert found["environ"] == ["LC_ALL", "PATH"], "nothing of the job's"
    assert found["fds"] == dict.fromkeys("012", "/dev/null")
    assert found["cwd"] == "/"
    assert found["sid"] != int(argv[1])
    status = found["status"]
    assert isinstance(status, dict)
    assert status["Uid"].split() == [str(WHO.pw_uid)] * 4
    assert {int(status[each], 16) for each in ("CapPrm", "CapEff", "CapAmb", "CapInh")} == {0}
    assert int(status["SigIgn"], 16) & TERM == 0
    assert "SLURM_CR_KEEPER=7:120 1" in run.all("spank_setenv")


def test_for_cr_alone(host: Host, python: Path) -> None:
    found = started(host.run(script(python, options=("cr",))), python)
    argv = found["argv"]
    assert isinstance(argv, list)
    assert argv[2:] == ["", ""]


HET = "jobenv SLURM_HET_SIZE=2"


@pytest.mark.parametrize(
    "more", [["item array 6"], [HET], [HET, "jobenv SLURM_JOB_ID_HET_GROUP_0=7"]]
)
def test_a_job_array_has_none(host: Host, python: Path, more: list[str]) -> None:
    """Nor has a heterogeneous job."""
    run = host.run(script(python, *more, options=("cr", "checkpoint=1")))
    assert "command" in run.lines
    assert not [line for line in run.all("spank_setenv") if "SLURM_CR_KEEPER" in line]


def test_a_job_that_an_array_has_submitted(host: Host, python: Path) -> None:
    """It has the variables of the other job, and a keeper."""
    more = ["item array 0", "jobenv SLURM_ARRAY_JOB_ID=6", HET, "jobenv SLURM_JOB_ID_HET_GROUP_0=6"]
    started(host.run(script(python, *more, options=("cr",))), python)


@pytest.mark.parametrize("options", [(), ("cr", "cr-before-end=no"), ("checkpoint=1",)])
def test_none(host: Host, python: Path, options: tuple[str, ...]) -> None:
    run = host.run(script(python, options=options))
    assert "command" in run.lines
    assert not [line for line in run.all("spank_setenv") if "SLURM_CR_KEEPER" in line]


@pytest.mark.parametrize("spared", [True, False])
def test_a_task_that_srun_has_spared(host: Host, python: Path, spared: bool) -> None:
    told = ["jobenv SLURM_CR_SPARE=1"] if spared else []
    lines = [*STEP, *told, f"arg python={python}", "call init", "option cr", "call init_post_opt"]
    run = host.run([*lines, f"task {USER}"])
    assert "command" in run.lines
    assert ("SLURM_CR_SPARE" in run.all("spank_unsetenv")) is spared
    assert run.one("sigterm") == ("ignored" if spared else "-")


@pytest.mark.parametrize(
    ("more", "spared"),
    [
        (["partition debug"], True),
        (["partition debug no"], False),
        (["partition debug no", "preempt preempt/partition_prio"], False),
        (["partition debug no", "preempt preempt/qos"], True),
        (["preempt preempt/qos"], False),
    ],
)
def test_srun_spares_tasks_that_may_be_preempted(
    host: Host, python: Path, more: list[str], spared: bool
) -> None:
    """By their partition, or by their QOS whatever the partition says."""
    env = {"SLURM_JOB_PARTITION": "debug", "SLURM_JOB_ID": "7", "SLURM_CR_KEEPER": "7:0"}
    lines = ["context local", f"arg python={python}", *more, "item job 7", "item step 3"]
    lines += ["setenv SLURM_SRUN_CR_SOCKET=/none", "call init", "option cr", "call init_post_opt"]
    run = host.run([*lines, "call local_user_init", "getenv SLURM_CR_SPARE"], env=env)
    assert ("SLURM_CR_SPARE=1" in run.lines) is spared, run.lines
