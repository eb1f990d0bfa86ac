# SPDX-License-Identifier: GPL-2.0-or-later
"""A helper that its user starts by hand: what it takes, and what it is told."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.login import Login, until
from tests.slurm.hostile import FIND, NOTHING, ByHand, dump, waiting_step

ROOT = "cr: couldn't checkpoint or restart: not for steps of root"
STATUS = "grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status"
NO_CAPABILITY = "".join(f"Cap{name}:\t{NOTHING}\n" for name in ("Inh", "Prm", "Eff", "Amb"))


@pytest.fixture
def waiting(alice: Login) -> str:
    return waiting_step(alice)


def test_another_users_step(alice: Login, bob: Login, waiting: str) -> None:
    """bob's helper, for alice's step: from within his own job he cannot reach hers."""
    own = waiting_step(bob)
    status_, out, err = ByHand(bob, own.split(".")[0], waiting).say(FIND)
    assert status_ != 0
    assert "cannot reach" in out, (out, err)
    status_, out, err = ByHand(bob, waiting.split(".")[0], waiting).say(FIND)
    assert status_ != 0
    assert re.search("denied|Access|Invalid", err), err
    assert alice.pycr("create", waiting, "--image-dir", ".").returncode == 0


@pytest.mark.parametrize("target", ["1.0;id", "../1", "-1.0", "1.batchx", "1.0 2", "x" * 5000, ""])
def test_odd_targets(alice: Login, waiting: str, target: str) -> None:
    status_, out, err = ByHand(alice, waiting.split(".")[0], target).say()
    assert (status_ != 0, "own command" in out) == (True, False)
    assert "--cr-helper" in err


def test_root_has_no_helper(login: Callable[[str], Login], alice: Login, waiting: str) -> None:
    root = login("root")
    root.popen("srun", "-n1", "-w", "n0", "sleep", "60")
    mine = root.step()
    for job, target, why in (
        (waiting, waiting, "Access/permission denied"),  # by Slurm itself
        (mine, mine, ROOT),
        (mine, waiting, ROOT),
    ):
        status_, out, err = ByHand(root, job.split(".")[0], target).say(FIND)
        assert (status_ != 0, "own command" in out) == (True, False)
        assert why in err


@pytest.mark.parametrize("where", ["command line", "script"])
def test_given_to_sbatch(alice: Login, where: str) -> None:
    """The script runs, without a capability: it never becomes a helper."""
    line = "#SBATCH --cr-helper=1.0" if where == "script" else ""
    (alice.place / "job.sh").write_text(f"#!/bin/bash\n{line}\n{STATUS}\n")
    words = ["--cr-helper=1.0"] if where == "command line" else []
    done = alice.run("sbatch", "--wait", "-n1", "-o", "log", *words, "job.sh")
    assert done.returncode == 0, done.stderr
    assert alice.read("log") == NO_CAPABILITY


def test_given_to_salloc(alice: Login) -> None:
    """Slurm hands it on to each srun in the allocation, which is then a helper as by hand."""
    done = alice.run(
        "salloc", "-Q", "--cr-helper=1.0", "-n1", "srun", "sh", "-c", "echo own command",
        input='{"do":"find","tasks":{"n0":[0],"n1":[0]},"wait":0,"patience":9}\n',
    )  # fmt: skip
    assert re.search(r"a helper in job \d+ cannot reach 1\b", done.stdout), done.stdout
    assert (done.returncode, "own command" in done.stdout) == (1, False)


def test_its_variable_makes_no_helper_of_a_job(alice: Login) -> None:
    """What srun would hand on for it, set by hand: a batch script never becomes one."""
    names = ("SLURM_SPANK__SLURM_SPANK_OPTION_cr_cr_helper", "SLURM_CR_HELPER", "SBATCH_CR_HELPER")
    env = dict.fromkeys(names, "1.0")
    done = alice.run("sbatch", "--wait", "-o", "log", "--wrap", STATUS, env=env)
    assert done.returncode == 0, done.stderr
    assert alice.read("log") == NO_CAPABILITY


def test_by_a_script_of_its_own_job(alice: Login) -> None:
    """srun --cr-helper in a batch script: a helper for a step of that job, as by hand; what the
    script wrote behind it never runs."""
    (alice.place / "job.sh").write_text(
        "#!/bin/bash\n"
        "srun -n1 --mem=10 sleep 100 &\n"
        'until squeue -hs -j $SLURM_JOB_ID -o %i | grep -q "[.]0$"; do :; done\n'
        "srun --overlap --mem=0 -n1 --cr-helper=$SLURM_JOB_ID.0 echo own command < lines\n"
        "echo status $?\n"
        "kill %1; wait\n"
    )
    (alice.place / "lines").write_text('{"do": "nothing"}\n')
    done = alice.run("sbatch", "--wait", "-n1", "-o", "log", "job.sh")
    assert done.returncode == 0 or alice.read("log"), done.stderr
    assert "no such command: 'nothing'" in alice.read("log")
    assert "status 1" in alice.read("log")
    assert "own command" not in alice.read("log")


NO_TASK_DIRECTORY = "FileNotFoundError: [Errno 2] No such file or directory"
NOT_HERE = "is not visible here: "
TOLD: list[tuple[list[object], str]] = [
    (["x" * 100_000], "Expecting value"),
    (["[" * 100_000], "nested too deeply"),
    (["[]"], "no object"),
    ([{"do": "nothing"}], "no such command: 'nothing'"),
    ([{"do": "find"}], "'patience'"),
    ([{**FIND, "tasks": {"n0": ["a"]}}], "invalid literal for int"),
    ([{**FIND, "tasks": {"n9": [0]}}], "'n0'"),
    ([{**FIND, "wait": "x"}], "could not convert string to float"),
    ([{**FIND, "patience": 1e30}], "timestamp out of range"),
    ([FIND, dump("/etc")], "/etc: it is another user's"),
    ([FIND, dump("/root")], NOT_HERE + "Permission denied"),
    ([FIND, dump("/tmp")], "/tmp: it is another user's"),
    ([FIND, dump("/dev/null")], NOT_HERE + "Not a directory"),
    ([FIND, dump("/proc/1/cwd")], NOT_HERE + "Not a directory"),
    ([FIND, dump("relative")], NOT_HERE + "No such file"),
    ([FIND, dump("/x\0y")], "embedded null character"),
    ([FIND, {**dump("HERE"), "timeout": "NaN"}], "invalid literal for int"),
    ([FIND, {**dump("HERE"), "timeout": 1 << 70}], NO_TASK_DIRECTORY),
    ([FIND, dump("HERE")], NO_TASK_DIRECTORY),
    ([dump("/x")], NOT_HERE + "No such file"),
]


@pytest.mark.parametrize(("lines", "why"), TOLD, ids=lambda value: str(value)[:60])
def test_what_it_is_told(alice: Login, waiting: str, lines: list[object], why: str) -> None:
    """It takes nothing that the user could not do, says why, and the task runs on."""
    here = [
        {**x, "dir": alice.dir} if isinstance(x, dict) and x.get("dir") == "HERE" else x
        for x in lines
    ]
    status_, out, err = ByHand(alice, waiting.split(".")[0], waiting).say(*here)
    assert why in out, (out, err)
    assert "Traceback" not in err
    assert status_ == (0 if why == NO_TASK_DIRECTORY else 1)
    until("the helper's step to end", lambda: alice.steps() == [waiting])
    assert alice.pycr("create", waiting, "--image-dir", ".").returncode == 0


def test_it_writes_into_no_other_users_directory(alice: Login, bob: Login, waiting: str) -> None:
    bob.place.chmod(0o777)
    (bob.place / "open").mkdir(mode=0o777)
    (bob.place / "open").chmod(0o777)
    for directory in (bob.dir, f"{bob.dir}/open"):
        _, out, _ = ByHand(alice, waiting.split(".")[0], waiting).say(FIND, dump(directory))
        assert "another user's" in out
    assert not list((bob.place / "open").iterdir())


def test_a_link_in_place_of_a_scripts_image(alice: Login) -> None:
    """What it leads to is not emptied: a helper clears the place of an attempt before."""
    done = alice.run("sbatch", "--parsable", "-w", "n0", "--wrap", "touch up; sleep 100")
    until("it to run", lambda: (alice.place / "up").exists())
    made = alice.sh("mkdir -m 700 victim image; touch victim/kept; ln -s ../victim image/task.0")
    assert made.returncode == 0, made.stderr
    job = done.stdout.strip()
    told = {**dump(f"{alice.dir}/image"), "outputs": True}
    status_, out, err = ByHand(alice, job, f"{job}.batch", "--mem=0").say(FIND, told)
    assert [each.name for each in (alice.place / "victim").iterdir()] == ["kept"]
    assert (status_, "task.0: Not a directory" in out) == (1, True), (out, err)
