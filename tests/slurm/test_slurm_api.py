# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface over Slurm: both implementations, where both are, pass the same tests.

PySlurm is built into the forky cluster alone (tests/cluster/pyslurm_wheel.py), so that there is
nothing to skip on the other. The questions are asked on a node, by the interpreter that pycr has
there, one process for all that one test asks.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.pyslurm_wheel import RELEASES
from tests.conftest import RELEASE
from tests.login import Login, until

BOTH = ["commands", "pyslurm"] if RELEASE in RELEASES else ["commands"]
PYTHON = "/opt/pycr/bin/python3"
native_only = pytest.mark.skipif(RELEASE not in RELEASES, reason="expected: no PySlurm here")

SLEEPER = """#!/bin/sh
env > "$RESULT.tmp" && mv "$RESULT.tmp" "$RESULT"
srun -N2 -n3 --job-name="two words" --overlap sh -c 'trap "exit 7" USR1; touch $RESULT.$SLURM_PROCID
    while :; do sleep 0.05; done' &
srun -N1 -n1 --overlap sleep 300 &
wait $!
sleep 300
"""

HEAD = """
import json, sys
from pycr.errors import PycrError
from pycr.slurm import geometry, job_geometry, BATCH
from pycr.slurm.api import choice, slurm
say, ask = {}, slurm()
def failure(function, *arguments):
    try:
        return ["said", repr(function(*arguments))]
    except PycrError as error:
        return [type(error).__name__, str(error)]
"""
TAIL = """
say["name"], say["why"], say["given_up"] = choice().name, choice().why, list(choice().given_up)
say["loaded"] = "pyslurm" in sys.modules
print(json.dumps(say))
"""


def asked(login: Login, way: str, questions: str, **env: str) -> Any:
    """Ask on a node, and return what `say` was given."""
    chosen = {"PYCR_SLURM": way} if way else {}
    done = login.run(PYTHON, "-c", HEAD + questions + TAIL, env={**chosen, **env})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def started(login: Login, way: str) -> int:
    """Submit SLEEPER by the interface, as if from within another job; return its id."""
    script = f"""
say["id"] = ask.submit({SLEEPER!r}, {{"job-name": "a b", "nodes": "2", "ntasks": "3",
    "time": "1-02:00:00", "chdir": "{login.dir}", "output": "{login.dir}/out.{way}"}},
    {{"RESULT": "{login.dir}/env.{way}", "MINE": "x y"}})
"""
    said = asked(login, way, script, STRAY="1", SLURM_NTASKS="77", SLURM_JOB_ID="4711")
    until("its tasks", lambda: all((login.place / f"env.{way}.{n}").exists() for n in range(3)))
    assert said["given_up"] == []
    job = int(said["id"])
    until("both steps", lambda: {f"{job}.0", f"{job}.1"} <= set(login.steps()))
    return job


def assert_environment(login: Login, way: str, job: int) -> None:
    """The job has what submit() was told, and nothing of the process that called it."""
    lines = login.read(f"env.{way}").splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    assert (found["MINE"], found["HOME"]) == ("x y", "/shared/home/alice"), way
    assert "STRAY" not in found, way
    assert (found["SLURM_JOB_ID"], found["SLURM_NTASKS"]) == (str(job), "3"), way


QUESTIONS = """
job = ask.job({job})
steps = ask.steps(job)
say["job"] = job._replace(fields={{}})
say["fields"] = job.fields
say["flags"] = [job.pending, job.running, job.is_batch]
say["geometry"] = [job_geometry(job), [geometry(job, each) for each in steps]]
say["steps"] = [each._replace(fields={{}}) for each in steps]
say["young"] = [each.fields["StartTime"].isdigit() for each in steps]
say["layout"] = [ask.layout({job}, each.step_id) for each in steps]
say["is_running"] = [ask.is_running({job}, n) for n in (0, 1, 7, BATCH)]
say["no"] = [
    failure(ask.job, 999999)[1], ask.is_running(999999, 0), failure(ask.layout, {job}, 9)[0],
    failure(ask.signal, {job}, 9, 10)[0], failure(ask.requeue, 999999)[0],
    failure(ask.submit, "#!/bin/sh", {{"partition": "none"}})[0], failure(ask.expand, "n[0-")[0],
]
from pycr.slurm.api import SETTINGS
config = ask.configuration()
say["configuration"] = [config[name] for name in SETTINGS]
say["nodes"] = [[name, facts["Arch"], facts["State"]] for name, facts in ask.nodes("low").items()]
say["nowhere"] = ask.nodes("none")
say["version"] = ask.version()
say["lists"] = [
    ask.expand("n[0-2,10],x1"), ask.expand(""), ask.compress(["n2", "x", "n10", "n1", "n1"]),
    ask.compress([]),
]
"""
PLAIN = ("JobName", "BatchFlag", "Requeue", "BatchHost", "NodeList", "NumNodes", "WorkDir")


ODD = (  # a job's name or comment, and what else its owner may write
    ["--job-name=two\nlines"],
    ["--comment=x UserId=root(0) JobState=COMPLETED"],
    ["--job-name=x UserId=bob(1002)"],
    ["--job-name=x UserId=bob(1002) JobState=RUNNING\nJobId=1 y"],
    ["--job-name=x\nJobId={job} UserId=bob(1002) JobState=COMPLETED"],
)


def test_whose_a_job_is(alice: Login) -> None:
    """It is not read from what its owner has written, nor is anything of another's job."""
    made: list[int] = []
    for odd in [[], *ODD]:
        words = [word.replace("{job}", str(min(made, default=0))) for word in odd]
        done = alice.run("sbatch", "--parsable", "-H", "-o", "/dev/null", *words, "--wrap=true")
        made.append(int(done.stdout))
    script = f"""
from pycr.slurm import commands
every = commands.jobs()
say["all"] = [every[job].uid for job in {made} if job in every]
say["first"] = every[{made[0]}].state
say["two"] = every[{made[1]}].fields["JobName"]
for job in {made}:
    try:
        say[str(job)] = commands.job(job).uid
    except Exception as error:
        say[str(job)] = str(error)
"""
    said = asked(alice, "commands", script)
    assert said["all"] == [1001] * len(made) and said["first"] == "PENDING", said
    assert said[str(made[1])] == 1001 and said["two"] == "two\nlines", said
    for job in made:
        answer = said[str(job)]
        assert answer == 1001 or "not understood" in str(answer), said


def test_both_answer_alike(alice: Login) -> None:
    jobs = {way: started(alice, way) for way in BOTH}
    for way, job in jobs.items():
        assert_environment(alice, way, job)
    job = jobs["commands"]
    said = {way: asked(alice, way, QUESTIONS.format(job=job)) for way in BOTH}
    for way, each in said.items():
        assert each["loaded"] == (way == "pyslurm")
        assert each["job"][:4] == [job, "alice", 1001, "RUNNING"]
        assert each["flags"] == [False, True, True]
        assert [each["fields"][name] for name in PLAIN[:3]] == ["a b", "1", "1"]
        assert not {"ArrayJobId", "HetJobId"} & set(each["fields"])
        geometry, _ = each["geometry"]
        assert (geometry[0], geometry[1], geometry[8]) == (3, 2, "1-02:00:00")
        assert sorted(step[4:6] for step in each["steps"]) == [[1, 1], [3, 2]]
        assert sorted(sum(map(len, one.values())) for one in each["layout"]) == [1, 3]
        assert each["is_running"] == [True, True, False, True]
        assert each["no"][0] == "job 999999: Slurm knows no such job, or no longer"
        refused = ["AlreadyDone", "AlreadyDone", "NoSuchJob", "SlurmError", "SlurmError"]
        assert each["no"][1:] == [False, *refused]
        assert each["configuration"][2:] == ["/etc/slurm/slurm.conf", "/var/spool/slurmd"]
        assert [node[0] for node in each["nodes"]] == ["n0", "n1", "n2", "n3"]
        assert each["nowhere"] == {}
        assert each["lists"] == [["n0", "n1", "n2", "n10", "x1"], [], "n[1-2,10],x", ""]
    if len(BOTH) == 2:
        one, other = (said[way] for way in BOTH)
        for name in ("geometry", "steps", "young", "layout", "no", "configuration", "nodes"):
            assert one[name] == other[name], name
        assert [one["fields"][name] for name in PLAIN] == [other["fields"][name] for name in PLAIN]
        assert one["version"] == other["version"]
        # The layout is the command's: PySlurm's own is not there to be asked.
        fatal = f"import pyslurm; pyslurm.Job.load({job}).get_resource_layout_per_node()"
        assert alice.run(PYTHON, "-c", fatal).returncode in (-11, 139)
        # What PySlurm does not tell from no step at all, and a list that is none.
        assert {text.split(":")[0] for text in other["given_up"]} == {"is_running", "expand"}


@pytest.mark.parametrize("way", BOTH)
def test_signals_arrive_and_jobs_end(alice: Login, way: str) -> None:
    """A signal reaches the tasks, also by PySlurm, which has a call that would do nothing."""
    job = started(alice, way)
    asked(
        alice,
        way,
        f"""
steps = {{each.tasks: each.step_id for each in ask.steps(ask.job({job}))}}
ask.signal({job}, steps[3], 10)
ask.kill_step({job}, steps[1])
""",
    )
    until("both steps to end", lambda: not [s for s in alice.steps() if s.startswith(f"{job}.")])
    asked(alice, way, f"ask.requeue({job})")
    until("the job to wait again", lambda: alice.state(job) in ("PENDING", "CONFIGURING"))
    asked(alice, way, f"ask.cancel({job})")
    until("the job to be gone", lambda: job not in alice.jobs())


def test_array_tasks_and_heterogeneous_steps_are_told_apart(alice: Login) -> None:
    """What PySlurm alone would get wrong: another task of the array, one part for the whole."""
    script = "#!/bin/sh\nsrun -n1 --overlap sleep 300 : -n1 --overlap sleep 300\n"
    (alice.place / "array").write_text(script)
    first = alice.run("sbatch", "--parsable", "--array=1-2", "-N2", "-n2", "array").stdout.strip()
    until("both tasks", lambda: alice.sh("squeue -hs -o %i | grep '[.]0'").stdout.count("\n") >= 4)
    shapes = []
    for way in BOTH:
        said = asked(
            alice,
            way,
            f"""
job, other = ask.job({first}), ask.job({first} + 1)
say["job"] = [job.job_id, job.fields["ArrayJobId"], job.fields["ArrayTaskId"]]
say["other"] = [other.fields["ArrayJobId"], other.fields["ArrayTaskId"], job_geometry(other)]
say["steps"] = failure(ask.steps, job)
""",
        )
        assert said["job"] == [int(first), first, "2"]
        assert said["steps"][0] == "NotSupported", said
        assert said["other"][:2] == [first, "1"]
        shapes.append(said["other"][2])
    assert shapes == shapes[:1] * len(BOTH)


UNREADABLE = """
import os, sys, time
began = time.monotonic()
from pycr.slurm.api import choice
name, why = choice().name, choice().why
print(name, "|", why, "|", time.monotonic() - began)
"""


@native_only
@pytest.mark.parametrize("conf", ["nowhere.conf", "locked.conf", "odd.conf"])
def test_bad_slurm_conf_neither_ends_nor_holds_up_pycr(alice: Login, conf: str) -> None:
    """PySlurm's import would wait for a minute, and then exit the interpreter."""
    if conf == "locked.conf":
        (alice.place / conf).touch(0o000)
    elif conf == "odd.conf":
        (alice.place / conf).write_text("This=IsNot a slurm.conf\n")
    setting = {"SLURM_CONF": f"{alice.dir}/{conf}"}
    done = alice.run(PYTHON, "-c", UNREADABLE, env=setting, timeout=80)
    assert done.returncode == 0, done.stderr
    name, why, seconds = done.stdout.split("|")
    assert name.strip() == "its commands"
    assert why.startswith(" libslurm does not start: ")
    assert float(seconds) < 30
    if conf == "locked.conf":
        forced = alice.run(PYTHON, "-c", UNREADABLE, env={**setting, "PYCR_SLURM": "pyslurm"})
        assert forced.returncode == 1
        assert "PYCR_SLURM=pyslurm: libslurm does not start" in forced.stderr


@native_only
def test_another_builds_pyslurm_is_not_used(alice: Login) -> None:
    """One built for another Slurm is seen by what its extensions were compiled with."""
    change = """
import os
os.environ["PYSLURM_DISABLE_AUTO_INIT"] = "1"
import pyslurm
pyslurm.slurm_api_version = lambda: (25, 11, 2)
from pycr.slurm.api import choice
print(choice().name, choice().why)
"""
    done = alice.run(PYTHON, "-c", change)
    assert done.stdout.startswith("its commands PySlurm 26.5+from25.11.2 was built for Slurm 25.11")
    forced = alice.run(PYTHON, "-c", change, env={"PYCR_SLURM": "pyslurm"})
    assert forced.stdout.startswith("PySlurm 26.5+from25.11.2"), forced.stderr


def test_doctor_tells_which_is_in_use(alice: Login) -> None:
    def finding(**env: str) -> Any:
        done = alice.pycr("doctor", "--json", env=env)
        return next(f for f in json.loads(done.stdout)["findings"] if f["name"] == "asked by")

    if RELEASE in RELEASES:
        wanted = "PySlurm 26.5+from25.11.2 (built for the libslurm here)"
    else:
        wanted = "its commands (PySlurm is not installed)"
    assert finding()["found"] == wanted
    assert finding(PYCR_SLURM="commands")["found"] == "its commands (PYCR_SLURM=commands)"
    wrong = finding(PYCR_SLURM="sinfo")
    assert not wrong["ok"] and "'sinfo'" in wrong["found"]


def test_nothing_of_it_is_on_srun_crs_way(alice: Login) -> None:
    """Nor do the helpers use it, whatever the variable says."""
    look = (
        "import sys, pycr.srun_cr.command, pycr.srun_cr.process, pycr.srun_cr.frames\n"
        "print([n for n in sys.modules if 'pyslurm' in n or n.startswith('pycr.slurm')])"
    )
    assert alice.run(PYTHON, "-c", look).stdout.strip() == "[]"
    look = (
        "import sys, pycr.node.dumper, pycr.node.script, pycr.pod.process\n"
        "print([n for n in sys.modules if 'pyslurm' in n or n in "
        "('pycr.slurm.api', 'pycr.slurm.native')])"
    )
    assert alice.run(PYTHON, "-c", look).stdout.strip() == "[]"
