# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs of `scontrol checkpoint` and the functions of slurm_checkpoint(3), on real jobs."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

from tests.login import Login, until
from tests.slurm.test_callbacks import PACKAGE
from tests.slurm.test_failures import assert_fails
from tests.slurm.test_refusals_2 import ASKED

TWO_STEPS = """#!/bin/bash
for name in a b; do
    srun --exact -n1 -c1 -o /dev/null sleep 1000 &
done
wait
"""
SCRIPT = """#!/bin/bash
echo "on $SLURMD_NODENAME" > ready
until test -e go; do sleep 0.05; done
echo over > over
"""
NOBODY = "999999"


def says(login: Login, *words: str, **options: Any) -> str:
    """Return what pycr prints, and nothing else."""
    done = login.pycr(*words, **options)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def python(login: Login, text: str) -> Any:
    """Run lines with pycr.checkpoint as c; return what they leave in `said`, by way of JSON."""
    lines = ["import json", "import pycr.checkpoint as c", text, "print(json.dumps(said))"]
    done = login.run("/opt/pycr/bin/python3", "-W", "error", "-c", "\n".join(lines))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def root_beside(user: Login) -> Login:
    return Login(user.cluster, "root", "n0", user.place)


def test_disable_and_enable_count(alice: Login, bob: Login) -> None:
    """Of a step, and of the whole job; and they refuse what cannot be checkpointed at all."""
    (alice.place / "job.sh").write_text(TWO_STEPS)
    alice.popen("salloc", "-J", "steps", "-n2", "bash", "job.sh")
    until("both steps", lambda: len(alice.steps()) == 2)
    one, two = alice.steps()
    job = one.split(".")[0]
    assert says(alice, "able", job) == "Yes\n"
    for _ in range(2):
        assert says(alice, "disable", two) == ""
    assert [says(alice, "able", name) for name in (one, job)] == ["Yes\n", "No\n"]
    refused = f"step {two}: checkpoints are disabled, 2 times: pycr enable {two}"
    assert_fails(alice.pycr("create", two, "--image-dir", "."), 16, refused)
    assert_fails(alice.pycr("vacate", job, "--image-dir", "."), 16, refused)
    assert says(alice, "create", one, "MAXWAIT=50", "imagedir=.").startswith(alice.dir)
    says(alice, "enable", two)
    assert json.loads(says(alice, "able", two, "--json")) == {"able": False, "began": 0}
    assert_fails(alice.pycr("tasks", two, "ImageDir=."), 16, f"disabled: pycr enable {two}")
    for _ in range(2):  # once too often: it does not count
        says(alice, "enable", two)
    assert says(alice, "able", job) == "Yes\n"
    said = python(
        alice,
        f"""
said = []
c.disable({job}, c.NO_VAL)
for step in (0, 1, c.NO_VAL):
    try:
        c.able({job}, step)
    except c.Disabled as error:
        said.append((error.errno, error.strerror))
try:
    c.create({job}, 0, image_dir=".")
except c.SlurmError as error:
    said.append((type(error).__name__, str(error)))
c.enable({job}, c.NO_VAL)
said.append(c.able({job}, c.NO_VAL))
""",
    )
    assert said[:3] == [[2037, "Requested operation is presently disabled"]] * 3
    assert said[3] == ["Disabled", f"step {one}: checkpoints are disabled: pycr enable {job}"]
    assert said[4] == 0
    assert [path.name for path in alice.place.glob(f"{job}.*/0*")] == ["0001"]
    for verb in ("able", "enable", "error", "complete"):
        done = bob.pycr(verb, one)
        assert_fails(done, 4, f"step {one}: it is alice's, not yours")
    root = root_beside(alice)
    assert says(root, "able", one) == "Yes\n"
    assert says(root, "error", job) == "error(0): \n"
    assert_fails(root.pycr("disable", one), 4, "it is alice's, not yours")
    run = alice.cluster.node("n0").run
    run(["scontrol", "suspend", job], check=True)
    assert says(alice, "able", one) == "No\n"
    says(alice, "disable", one)
    run(["scontrol", "resume", job], check=True)
    assert says(alice, "able", one) == "No\n"
    alice.cancel_all()
    for verb in ("able", "disable"):
        assert_fails(alice.pycr(verb, one), 5, f"step {one}: the job has ended")
    assert says(alice, "error", one) == says(alice, "error", job) == "error(0): \n"
    for verb in ("able", "error"):
        assert_fails(alice.pycr(verb, NOBODY), 3, f"job {NOBODY}: Slurm knows no such job")
    late = alice.run("sbatch", "--parsable", "--begin=now+1hour", "job.sh").stdout.strip()
    for verb in ("able", "error"):
        assert_fails(alice.pycr(verb, late), 6, f"job {late}: the job has not started")


def test_able_error_and_complete(alice: Login) -> None:
    """While a checkpoint is under way, and of what came of it."""
    (alice.place / "asked.py").write_text(ASKED)
    command = f"PYTHONPATH={PACKAGE} exec python3 asked.py"
    alice.popen("srun", "-n1", "-oout", "bash", "-c", command)
    step = alice.step()
    job = step.split(".")[0]
    until("it to be up", lambda: "up" in alice.read("out"))
    before = int(time.time())
    running = alice.popen("pycr", "create", step, "ImageDir=.")
    until("it to be asked", (alice.place / "asked").exists)
    epoch = {"SLURM_TIME_FORMAT": "%s"}
    began = int(says(alice, "able", step, env=epoch).removeprefix("Began at "))
    assert before <= began <= time.time()
    iso = alice.run("date", "-d", f"@{began}", "+Began at %FT%T").stdout
    assert says(alice, "able", job) == says(root_beside(alice), "able", step) == iso
    assert python(alice, f"said = c.able({job}, 0)") == began
    assert json.loads(says(alice, "able", step, "--json")) == {"able": True, "began": began}
    assert_fails(alice.pycr("vacate", step, "ImageDir=."), 13, "under way already")
    assert says(alice, "error", step) == "error(0): \n"
    (alice.place / "go").touch()
    assert running.wait(30) == 0
    assert says(alice, "able", step) == "Yes\n"
    complete = ("complete", step, "--begin-time", str(began))
    says(alice, *complete, "--error-code", "3", "--error-msg", "three\nlines")
    says(alice, *complete, "--error-code", "2", "--error-msg", "two")
    assert says(alice, "error", step) == "error(3): three\\nlines\n"
    said = python(
        alice,
        f"""
c.complete({job}, 0, start_time={began}, error_code=4, error_msg="four")
said = [c.error({job}, 0)]
for number in (1, {began} - 1):
    try:
        c.complete({job}, c.NO_VAL, begin_time=number, error_code=9, error_msg="nine")
    except c.AlreadyDone as error:
        said.append((error.errno, error.strerror))
""",
    )
    assert said == [[4, "four"], *[[2021, "Job/step already completing or completed"]] * 2]
    told = {"error_code": 4, "error_msg": "four"}
    assert json.loads(says(root_beside(alice), "error", job, "--json")) == told
    for name in ("go", "asked"):
        (alice.place / name).unlink()
    call = f"import pycr.checkpoint as c; c.create({job}, 0, image_dir='.')"
    caller = alice.popen("/opt/pycr/bin/python3", "-c", call)
    until("it to be asked", (alice.place / "asked").exists)
    caller.send_signal(signal.SIGINT)
    assert caller.wait(30) != 0
    assert says(alice, "error", step) == "error(1): interrupted\n"
    (alice.place / "go").touch()
    says(alice, "create", step, "--image-dir", ".")
    assert says(alice, "error", step) == "error(0): \n"
    alice.sh(f"ln -sf /etc/shadow ~/checkpoint/.journal/{job}")
    assert_fails(root_beside(alice).pycr("error", step), 8, f"/checkpoint/.journal/{job}: ")
    alice.sh(f"rm ~/checkpoint/.journal/{job}")


def test_tasks_of_a_step(alice: Login) -> None:
    """At a time; on its nodes or on none."""
    alice.popen("srun", "-N2", "-n2", "-o", "/dev/null", alice.victim("tick.py"))
    step = alice.step()
    job = step.split(".")[0]
    nodes = alice.run("squeue", "-h", "-s", step, "-o", "%N").stdout.strip()
    until("its tasks", lambda: all((alice.place / f"beat.{task}").exists() for task in (0, 1)))
    part = alice.pycr("tasks", step, "ImageDir=.", "--nodelist", "n0")
    assert_fails(part, 7, f"step {step}: it is on ", "would not be whole")
    assert_fails(alice.pycr("tasks", step, "--nodelist=-h;id"), 2, "is no list of nodes")
    assert_fails(alice.pycr("tasks", f"{job}.batch"), 7, f"job {job}: its script is none of")
    assert not (alice.place / step).exists()
    begin = int(time.time()) + 4
    (at, now) = python(
        alice,
        f"""
said = [str(c.tasks({job}, 0, {begin}, ".", 60, "{nodes}")[0])]
said.append(str(c.tasks({job}, c.NO_VAL, 0, ".", nodelist=None)[0]))
""",
    )
    assert [at, now] == [f"{alice.dir}/{step}/000{number}" for number in (1, 2)]
    for task in alice.pycr_json("show", at)["tasks"]:
        assert begin <= task["began"] < begin + 30
    assert step in alice.steps()


def test_batch_job_in_python(alice: Login) -> None:
    """Created, vacated and restarted by the functions; scontrol's words for a restart."""
    (alice.place / "job.sh").write_text(SCRIPT)
    (alice.place / "json.py").write_text("raise SystemExit('of the current directory')")
    job = alice.run("sbatch", "--parsable", "-wn2", "job.sh").stdout.strip()
    until("the script to run", lambda: "on" in alice.read("ready"))
    text = f"""
import os
import sys
sys.path[:] = [each for each in sys.path if each]
def failed(call, *words, **more):
    try:
        call(*words, **more)
    except c.SlurmError as error:
        return [type(error).__name__, error.errno, error.strerror, str(error)]
said = [str(each) for each in c.create({job}, c.SLURM_BATCH_SCRIPT, max_wait=60, image_dir=".")]
said += [failed(c.create, {NOBODY}, 0), failed(c.vacate, {job}, 7), failed(c.tasks, {job}, 7)]
said += [failed(c.restart, {job}, 0), failed(c.create, {job}, c.NO_VAL, image_dir="none")]
c.disable({job}, c.SLURM_BATCH_SCRIPT)
said.append(failed(c.requeue, {job}, image_dir="."))
c.enable({job}, c.SLURM_BATCH_SCRIPT)
said += [str(each) for each in c.vacate({job}, c.NO_VAL, image_dir=".")]
said.append(c.restart({job}, c.SLURM_BATCH_SCRIPT, stick=1, image_dir="."))
"""
    lines = f"import sys; sys.path.remove('')\nimport json\nimport pycr.checkpoint as c\n{text}"
    done = alice.run("/opt/pycr/bin/python3", "-c", f"{lines}\nprint(json.dumps(said))")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    place = f"{alice.dir}/{job}.batch"
    assert [said[0], said[-2]] == [f"{place}/0001", f"{place}/0002"]
    wanted = [
        ("InvalidJobId", 2017, "Invalid job id specified"),
        ("AlreadyDone", 2021, "Job/step already completing or completed"),
        ("AlreadyDone", 2021, "Job/step already completing or completed"),
        ("NotSupported", 2036, "Requested operation not supported on this system"),
        ("WritingToFile", 2019, "I/O error writing script/environment to file"),
        ("Disabled", 2037, "Requested operation is presently disabled"),
    ]
    assert [tuple(each[:3]) for each in said[1:-2]] == wanted
    assert said[5][3] == "image directory none: no such directory"
    assert said[6][3] == f"job {job}: checkpoints are disabled: pycr enable {job}.batch"
    new = str(said[-1])
    assert new != job
    until("it to run", lambda: alice.run("squeue", "-hj", new, "-o%N").stdout.strip() == "n2")
    words = ("restart", "--dry-run", job, "StickToNodes", "IMAGEDIR=.", "--parsable")
    command = says(alice, *words).split()
    assert "--nodelist=n2" in command and f"--restart-dir={place}/0002" in command
    assert command[-1] == "--parsable"
    assert_fails(alice.pycr("restart", job, "MaxWait=3"), 2, "'MaxWait=3': it is not ImageDir=DIR")
    (alice.place / "go").touch()
    until("it to go on to its end", lambda: alice.read("over") == "over\n")
