# SPDX-License-Identifier: GPL-2.0-or-later
"""Restarts: what comes back, where, in which job, with which end, and what is left of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.login import Login, until
from tests.victims.ticking import Ticking, gapless

PASSED = 7
KINDS = [
    "threads",
    "numpy",
    "session",
    "fifo",
    "socketpair",
    "listener",
    "deleted",
    "log",
    "timer",
    "children",
]


def in_dir(alice: Login, path: Path) -> str:
    """Return the cluster's name of a path under the user's directory."""
    return f"{alice.dir}/{path.relative_to(alice.place)}"


@pytest.mark.parametrize("kind", [*KINDS, "heap.c", "pipeline.sh"])
def test_round_trip(alice: Login, kind: str) -> None:
    """create, vacate, restart on another node: the victim finds itself whole."""
    command = [alice.victim("kinds.py" if kind in KINDS else kind), kind]
    if kind == "heap.c":
        command = ["./heap"]
        built = alice.run("gcc", "-O1", "-o", "heap", "heap.c")
        assert built.returncode == 0, built.stderr
    job = alice.popen("srun", "--cr", "-n1", "-w", "n1", *command)
    until("it to be ready", lambda: (alice.place / "ready").exists() or job.poll() is not None)
    assert job.poll() is None, job.communicate()
    step = alice.step()
    for verb in ("create", "vacate"):
        done = alice.pycr(verb, step, "--image-dir", ".")
        assert done.returncode == 0, done.stderr
    assert "pass" not in job.communicate(timeout=30)[0]
    (alice.place / "stop").touch()
    again = alice.pycr("restart", "--image-dir", ".", step, "-w", "n2")
    assert (again.stdout, again.returncode) == ("pass\n", PASSED), again.stderr


def test_restarted_three_deep(alice: Login) -> None:
    """Two nodes to four, to one, to two others, with a create in every life."""
    job = Ticking(alice, 4, "3")
    job.start("-N2")
    for layout in (["-N4"], ["-N1"], ["-N2", "-w", "n2,n3"]):
        job.create()
        job.goes_on()
        job.vacate()
        job.restart(*layout)
    assert job.stop() == 3
    job.whole()
    assert len(alice.pycr_json("ls", ".")) == 6


@pytest.mark.parametrize("how", ["--restart-dir", "SLURM_RESTART_DIR", "--cr"])
def test_restart_by_srun(alice: Login, how: str) -> None:
    """The option, the old variable, and the option under srun_cr: the same as pycr restart."""
    job = Ticking(alice, 2, "3")
    job.start("-N2")
    made = in_dir(alice, job.vacate())
    if how == "SLURM_RESTART_DIR":
        job.live("srun", "-n2", "x", env={how: str(Path(made).parent)})
    else:
        cr = ["--cr"] if how == "--cr" else []
        job.live("srun", *cr, "-n2", f"--restart-dir={made}", "x")
    job.create()
    assert job.stop() == 3
    job.whole()


def test_restart_of_an_earlier_generation(alice: Login) -> None:
    """A generation named by its path is the one that is restarted: later lines come again."""
    job = Ticking(alice, 1)
    job.start()
    first = in_dir(alice, job.create())
    job.goes_on()
    job.vacate()
    lines = job.out.count("\n")
    job.out = job.err = ""
    job.live("pycr", "restart", first)
    assert job.stop() == 0
    again = [int(line.split()[1]) for line in job.out.splitlines() if line.startswith("0 ")]
    assert 0 < again[0] < lines
    assert again == list(range(again[0], again[0] + len(again)))


@pytest.mark.parametrize("command", ["sbatch", "salloc"])
def test_restart_inside_an_allocation(alice: Login, command: str) -> None:
    """The allocation is used, whatever the old job was like; no other job is asked for."""
    job = Ticking(alice, 4, "3")
    job.start("-N2", "--mem-per-cpu=100")
    job.vacate()
    words = ["pycr", "restart", "--image-dir", ".", job.step]
    old = alice.jobs()
    if command == "sbatch":
        script = " ".join(words)
        job.live("sbatch", "-W", "-N1", "-n4", "-o", "log", "-e", "err", "--wrap", script)
    else:
        job.live("salloc", "-N1", "-n4", *words)
    assert len(set(alice.jobs()) - set(old)) <= 1
    nodes = alice.run("squeue", "-h", "-s", "-j", job.step.split(".")[0], "-o", "%i %N").stdout
    assert re.search(rf"^{job.step} n\d$", nodes, re.MULTILINE), nodes
    assert job.stop() == 3
    job.out += alice.read("log")
    job.err += alice.read("err")
    job.whole()


@pytest.mark.parametrize("end", ["0", "9", "TERM", "SEGV"])
def test_end_is_the_tasks(alice: Login, end: str) -> None:
    """srun ends, and says, for a restarted step what it does for any other."""
    job = Ticking(alice, 2, end)
    (alice.place / "stop").touch()
    plain = alice.run("srun", "-N2", "-n2", *job.command)
    (alice.place / "stop").unlink()
    job.start("-N2")
    job.vacate()
    job.restart()
    job.err = ""
    assert job.stop() == plain.returncode
    said = [re.sub(r"\d+\.\d+", "J.S", line) for line in job.err.splitlines() if "srun" in line]
    wanted = [
        re.sub(r"\d+\.\d+", "J.S", line) for line in plain.stderr.splitlines() if "srun" in line
    ]
    assert said == wanted


def test_wrong_number_of_tasks(alice: Login) -> None:
    job = Ticking(alice, 2)
    job.start("-N2")
    made = in_dir(alice, job.vacate())
    for tasks in ("1", "3"):
        again = alice.pycr("restart", "--image-dir", ".", job.step, "-n", tasks)
        assert again.returncode == 125
        lines = [line for line in again.stderr.splitlines() if not line.startswith("srun:")]
        assert lines == [
            f"pycr: couldn't restart: {made} holds 2 tasks and this step has {tasks}:"
            " restart it with --ntasks=2"
        ]
    until("the steps to go", lambda: not alice.steps())
    job.restart()
    assert job.stop() == 0
    job.whole()


def test_cancelled_restart_leaves_nothing(alice: Login) -> None:
    """After scancel: no process, no file in /tmp, no step, no socket, on any node."""
    nodes = [alice.cluster.node(f"n{number}") for number in range(4)]
    look = "ps -u alice -o pid,args --no-headers; find /tmp /run /dev/shm -user alice"
    look += "; grep pycr- /proc/net/unix"

    def left() -> list[str]:
        return [line for node in nodes for line in node.run(["sh", "-c", look]).stdout.splitlines()]

    before = left()
    job = Ticking(alice, 4)
    job.start("-N2")
    job.vacate()
    job.restart("-N4")
    job.create()
    alice.run("scancel", job.step)
    assert job.end() != 0
    until("the step to go", lambda: not alice.steps())
    until("nothing to be left", lambda: set(left()) <= set(before))


def test_restart_takes_the_old_jobs_terms(alice: Login) -> None:
    """CPUs, memory, partition, time and name are the old job's; what is given on the line wins."""
    job = Ticking(alice, 2)
    terms = ["-N2", "-c2", "--mem-per-cpu=100", "-p", "low", "-t", "5", "-J", "mine"]
    job.start(*terms)
    job.vacate()
    job.restart()
    show = alice.run("scontrol", "-o", "show", "job", job.step.split(".")[0]).stdout
    for word in (
        "Partition=low",
        "TimeLimit=00:05:00",
        "MinMemoryCPU=100M",
        "CPUs/Task=2",
        "NumNodes=2",
        "NumTasks=2",
        "JobName=mine",
    ):
        assert f" {word} " in show, show
    job.vacate()
    job.restart("-N1", "-p", "debug", "-t", "7", "--mem=900M", "-c", "1", "-J", "other")
    show = alice.run("scontrol", "-o", "show", "job", job.step.split(".")[0]).stdout
    for word in (
        "Partition=debug",
        "TimeLimit=00:07:00",
        "MinMemoryNode=900M",
        "CPUs/Task=1",
        "NumNodes=1",
        "JobName=other",
    ):
        assert f" {word} " in show, show
    job.vacate()
    job.restart("--mem-per-cpu=200")
    show = alice.run("scontrol", "-o", "show", "job", job.step.split(".")[0]).stdout
    assert " MinMemoryCPU=200M " in show, show
    assert job.stop() == 0
    job.whole()


def test_one_image_twice_on_a_node(alice: Login) -> None:
    """Process ids never collide: two restarts of one image run side by side on its own node."""
    job = Ticking(alice, 2)
    job.start("-N1", "-w", "n1")
    job.vacate()
    both = []
    for name in ("one", "two"):
        words = [
            "restart",
            "--image-dir",
            ".",
            job.step,
            "-w",
            "n1",
            "-o",
            name,
            "-e",
            f"{name}.err",
        ]
        both.append(alice.popen("pycr", *words))
    until("both to go on", lambda: all(alice.read(name).count("\n") > 9 for name in ("one", "two")))
    (alice.place / "stop").touch()
    assert [each.wait(30) for each in both] == [0, 0]
    for each, name in zip(both, ("one", "two")):
        each.communicate()
        gapless(job.out + alice.read(name), 2)
