# SPDX-License-Identifier: GPL-2.0-or-later
"""The C library on the cluster: programs compiled there, as slurm_checkpoint(3) has them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.login import Login, until

CC = "cc -Wall -Werror -I/opt/pycr/include {0}.c -o {0} -L/opt/pycr/lib -lpycr -lslurm"
# That of slurm_checkpoint(3), with its include lines changed.
EXAMPLE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <pycr/slurm.h>
#include <pycr/slurm_errno.h>

int main (int argc, char *argv[])
{
	uint32_t job_id, step_id;

	if (argc < 3) {
		printf("Usage: %s job_id step_id\n", argv[0]);
		exit(1);
	}

	job_id = atoi(argv[1]);
	step_id = atoi(argv[2]);
	if (slurm_checkpoint_disable(job_id, step_id)) {
		slurm_perror ("slurm_checkpoint_error:");
		exit (1);
	}
	exit (0);
}
"""
SCRIPT = "#!/bin/bash\nsrun --cr -n2 {}/count.py 100000\n"


class Program:
    """checkpoint.c, compiled on the login node."""

    def __init__(self, login: Login) -> None:
        self.login = login
        source = Path(__file__).with_name("checkpoint.c")
        compile_c(login, "checkpoint", source.read_text())

    def __call__(self, function: str, job: int | str, step: int | str, *more: object) -> str:
        """Call a function; return "ok" with what was told, or the error number."""
        words = ["./checkpoint", function, str(job), str(step), *map(str, more)]
        done = self.login.run("env", "LD_LIBRARY_PATH=/opt/pycr/lib", *words)
        assert done.returncode in (0, 1), done.stderr
        return done.stdout.strip()


def compile_c(login: Login, name: str, text: str) -> None:
    (login.place / f"{name}.c").write_text(text)
    made = login.sh(CC.format(name))
    assert made.returncode == 0, made.stderr


@pytest.fixture
def call(alice: Login) -> Program:
    return Program(alice)


def submit(login: Login) -> int:
    """Return a batch job whose step counts."""
    login.victim("count.py")
    (login.place / "job.sh").write_text(SCRIPT.format(login.dir))
    done = login.run("sbatch", "--parsable", "--cr", "-N1", "-n2", "--output=log", "job.sh")
    until("it to count", lambda: "0 2" in login.read("log"))
    return int(done.stdout)


def counted(login: Login) -> int:
    """Return how far the first task has counted; every number there is once, in order."""
    numbers = [int(line[2:]) for line in login.read("log").splitlines() if line[:2] == "0 "]
    assert numbers == list(range(len(numbers)))
    return len(numbers)


def test_checkpoint_and_restart(alice: Login, bob: Login, call: Program) -> None:
    """create, vacate, restart and requeue, and how they fail."""
    job = submit(alice)
    (alice.place / "step").mkdir(0o777)
    (alice.place / "step").chmod(0o777)
    assert call("create", job, 0, 60, "step").startswith("ok")
    assert (alice.place / f"step/{job}.0/0001/manifest.json").exists()
    assert call("create", job, "batch", 0, ".").startswith("ok")
    assert call("create", job, "all", 0, ".").startswith("ok")
    assert call("create", job, 1, 0, ".") == "2021"
    assert call("create", 99999999, 0, 0, ".") == "2017"
    assert call("create", job, 0, 0, "/proc") == "2019"
    assert call("restart", job, 0, 0, ".") == "2036"
    assert call("restart", job, "batch", 0, "step") == "2"
    assert call("restart", job, "batch", 0, ".") == "114"
    theirs = bob.popen("srun", "sleep", "100")
    assert call("vacate", *bob.step().split("."), 0, ".") == "2002"
    theirs.kill()
    held = int(alice.run("sbatch", "-H", "--parsable", "job.sh").stdout)
    assert call("vacate", held, "all", 0, ".") == "2024"
    alice.run("scancel", str(held))

    assert call("vacate", job, "batch", 60, ".").startswith("ok")
    before = counted(alice)
    assert (alice.place / f"{job}.batch/0003/manifest.json").exists()
    until("the job to end", lambda: job not in alice.jobs())
    assert call("vacate", job, "batch", 0, ".") == "2021"
    assert call("restart", job, "batch", 1, ".").startswith("ok")
    (again,) = until("the new job", alice.jobs)
    assert again != job
    until("it to go on", lambda: counted(alice) > before)
    assert call("requeue", again, "batch", 0, ".").startswith("ok")
    shown = alice.run("scontrol", "show", "job", str(again)).stdout
    assert "Restarts=1" in shown


def test_able_disable_and_what_is_told(alice: Login, call: Program) -> None:
    """The example of the man page, and the functions that only say something."""
    compile_c(alice, "example", EXAMPLE)
    job = submit(alice)
    example = ("env", "LD_LIBRARY_PATH=/opt/pycr/lib", "./example")
    assert call("able", job, 0) == "ok 0 0"
    assert alice.run(*example, str(job), "0").returncode == 0
    assert call("able", job, 0) == "2037"
    assert call("create", job, 0, 0, ".") == "2037"
    failed = alice.run(*example, "99999999", "0")
    assert failed.returncode == 1
    assert failed.stderr == "slurm_checkpoint_error:: Invalid job id specified\n"
    assert call("enable", job, 0).startswith("ok")
    assert call("able", job, 0) == "ok 0 0"

    now = int(time.time())
    assert call("tasks", job, 0, 0, ".", 60).startswith("ok")
    assert call("error", job, 0) == "ok 0 0"
    assert call("complete", job, 0, 0, 3, "a 'message'\twith $(all)").startswith("ok")
    assert call("complete", job, 0, 0, 2, "less").startswith("ok")
    assert call("error", job, 0).startswith("ok 0 3 a 'message'")
    assert call("complete", job, 0, now - 1000, 4, "of another").startswith("2021")
