# SPDX-License-Identifier: GPL-2.0-or-later
"""Slurm's answers, by way of its commands (4 to 12 ms each): one implementation of api.py's
interface, and what is only to be had from a command.

What a command says when it fails becomes one of pycr's errors; nothing is guessed from silence.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType

from pycr.errors import (
    AccessDenied,
    AlreadyDone,
    NoSuchJob,
    NotSupported,
    SlurmError,
)
from pycr.slurm import BATCH, MAX_STEP, Job, Layout, Step, job_state

# Variables that the user's srun heeds must not bend pycr's own calls of Slurm's commands.
_OURS = ("PATH", "HOME", "USER", "LOGNAME", "SLURM_CONF", "SLURM_CONF_SERVER", "KRB5CCNAME")
TIMEOUT = 120
NONE: Mapping[str, str] = MappingProxyType({})
# What submit() can be told: sbatch's option -> PySlurm's name for it.
SUBMIT_OPTIONS = {
    "job-name": "name",
    "nodes": "nodes",
    "ntasks": "ntasks",
    "time": "time_limit",
    "partition": "partitions",
    "chdir": "working_directory",
    "output": "standard_output",
}


def environment(for_reading: bool = True) -> dict[str, str]:
    """Return the environment that pycr gives Slurm's commands.

    for_reading: so that what they print can be parsed.
    """
    kept = _kept()
    return {**kept, "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"} if for_reading else kept


def _kept() -> dict[str, str]:
    return {name: os.environ[name] for name in _OURS if name in os.environ}


def program(name: str) -> str:
    """Return the path of a Slurm command. Raises SlurmError."""
    path = shutil.which(name)
    if path is None:
        raise SlurmError(f"{name}: not found in PATH: is Slurm installed here?")
    return path


def run(
    name: str,
    *arguments: str,
    input: str = "",
    given: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> str:
    """Run a Slurm command and return what it prints. Raises SlurmError with its own words.

    given: its environment, where that is to be another. timeout: seconds.
    """
    try:
        done = subprocess.run(
            [program(name), *arguments],
            input=input,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment() if given is None else given,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{name}: no answer within {timeout:.0f} s: is slurmctld up?") from error
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise SlurmError(f"{name}: {lines[-1].strip() if lines else 'failed silently'}")
    return done.stdout


def fields(line: str) -> dict[str, str]:
    """Split scontrol's one-line NAME=VALUE form; a value may hold blanks and equal signs.

    A name is a word that begins with a capital. A value that the user chooses (a job's name, its
    comment) may have such a word and "=", and a newline: no field here says whose a job is.
    """
    parts = re.split(r"(?:^|\s)([A-Z][A-Za-z/:]*)=", line)
    return {name: value.strip() for name, value in zip(parts[1::2], parts[2::2])}


def records(text: str) -> list[str]:
    """Split scontrol's records of jobs, a line each but for a name or comment of several lines."""
    return re.split(r"\n(?=JobId=)", text)


def job(job_id: int) -> Job:
    """Return a job. Raises NoSuchJob, SlurmError."""
    try:
        # An array's first id shows all its tasks, each with a JobId of its own.
        text = run("scontrol", "-o", "show", "job", str(job_id))
        lines = map(fields, records(text))
        found = next(line for line in lines if line.get("JobId") == str(job_id))
        user, uid = _user(found["UserId"])
        if text.count("UserId=") > 1:
            user, uid = _owners("--all", f"--jobs={job_id}")[job_id]
    except SlurmError as error:
        if "Invalid job id" in str(error):
            raise NoSuchJob(f"job {job_id}: Slurm knows no such job, or no longer") from error
        raise
    except (KeyError, StopIteration, ValueError) as error:
        raise SlurmError(f"scontrol show job {job_id}: not understood: {error}") from error
    return Job(job_id, user, uid, job_state(found.get("JobState", "")), found)


def jobs() -> dict[int, Job]:
    """Return all jobs that Slurm shows to this user, by id. Raises SlurmError."""
    found: dict[int, Job] = {}
    odd = set()
    lines = [fields(each) for each in records(run("scontrol", "-o", "show", "job"))]
    owners = _owners()
    for line in lines:
        with suppress(KeyError, ValueError):
            user, uid = _user(line["UserId"])
            job_id = int(line["JobId"])
            if job_id in found or owners.get(job_id, ("", uid))[1] != uid:
                odd.add(job_id)
            found[job_id] = Job(job_id, user, uid, job_state(line.get("JobState", "")), line)
    odd |= owners.keys() - found.keys()
    for job_id in odd & owners.keys():
        try:  # somebody's text looks like it: of one job it is its owner's alone
            found[job_id] = job(job_id)
        except NoSuchJob:
            found.pop(job_id, None)
        except SlurmError:  # it is there still, whatever it is
            found[job_id] = Job(job_id, *owners[job_id], "?", {})
    return {job_id: each for job_id, each in found.items() if job_id in owners}


def _owners(*words: str) -> dict[int, tuple[str, int]]:
    """Return whose jobs are, user and uid, by id: in an answer with nothing that users choose."""
    text = run("squeue", "--noheader", "--states=all", "--format=%A %U %u", *words)
    rows = (line.split(maxsplit=2) for line in text.splitlines())
    return {int(number): (user, int(uid)) for number, uid, user in rows}


def _user(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.*)\((\d+)\)", text)
    if match is None:
        raise ValueError(f"UserId={text}")
    return match.group(1), int(match.group(2))


def steps(job: Job) -> list[Step]:
    """Return the running steps of a job that srun started, in order. Raises SlurmError."""
    job_id = job.job_id
    # Slurm names an array task's steps by ARRAY_TASK.STEP, and shows the whole array's.
    array = f"{job.fields.get('ArrayJobId')}_{job.fields.get('ArrayTaskId')}"
    try:
        text = run("scontrol", "-o", "show", "step", str(job_id))
    except SlurmError as error:
        if re.search(r"Invalid job id|not found|No steps", str(error)):
            return []
        raise
    found: list[Step] = []
    for line in text.splitlines():
        values = fields(line)
        match = re.fullmatch(r"([\d_]+)(\+\d+)?\.(\d+)(\+\d+)?", values.get("StepId", ""))
        if match is None or match.group(1) not in (str(job_id), array):
            continue
        # Slurm 26.05 names the parts of a heterogeneous step alike.
        twice = any(each.step_id == int(match.group(3)) for each in found)
        if match.group(2) or match.group(4) or twice:
            raise NotSupported(
                f"step {values['StepId']}: steps of heterogeneous jobs cannot be checkpointed yet"
            )
        if int(match.group(3)) > MAX_STEP:
            continue
        try:
            found.append(
                Step(
                    job_id=job_id,
                    step_id=int(match.group(3)),
                    uid=int(values["UserId"]),
                    state=values.get("State", ""),
                    tasks=int(values["Tasks"]),
                    nodes=int(values["Nodes"]),
                    fields=values,
                )
            )
        except (KeyError, ValueError) as error:
            raise SlurmError(f"scontrol show step {job_id}: not understood: {error}") from error
    return found


def is_running(job_id: int, step_id: int) -> bool:
    """Tell whether Slurm still knows a step. Raises SlurmError."""
    if step_id == BATCH:
        return True  # it is where this is asked
    try:
        run("scontrol", "show", "step", f"{job_id}.{step_id}")
    except SlurmError as error:
        if re.search(r"Invalid job id|not found|No steps", str(error)):
            return False
        raise
    return True


def layout(job_id: int, step_id: int) -> Layout:
    """Return which tasks of a step are on which node. Raises SlurmError, AlreadyDone."""
    name = f"{job_id}.{step_id}"
    try:
        text = run("sattach", "--layout", name)
    except SlurmError as error:
        if re.search(r"Invalid job|does not look like|not running|already completed", str(error)):
            raise AlreadyDone(f"step {name}: it has just ended") from error
        if "denied" in str(error):
            raise AccessDenied(f"step {name}: it is another user's") from error
        raise
    found: Layout = {}
    for match in re.finditer(r"Node \d+ \(([^)]+)\), \d+ task\(s\):([\d ]*)", text):
        found[match.group(1)] = [int(word) for word in match.group(2).split()]
    if not found:
        raise SlurmError(f"sattach --layout {name}: not understood: {text.strip():.80}")
    return found


def pids(job_id: int, step_id: int) -> tuple[dict[int, int], set[int]]:
    """Return a step's processes on this node: global task id -> its first process, and all.

    Raises SlurmError.
    """
    # The batch script has no name that listpids takes: it is among all of the job.
    batch = step_id == BATCH
    try:
        try:
            text = run("scontrol", "listpids", str(job_id) if batch else f"{job_id}.{step_id}")
        except SlurmError as error:
            if not batch or "connect to slurmstepd" not in str(error):
                raise
            # Another step's slurmstepd has died and left its socket. The number is what scontrol
            # takes for the script alone (24.11).
            text = run("scontrol", "listpids", f"{job_id}.{BATCH}")
    except SlurmError as error:
        if "does not exist" in str(error):
            return {}, set()  # not yet, or no longer
        raise
    leaders: dict[int, int] = {}
    every: set[int] = set()
    for line in text.splitlines():
        words = line.split()
        if len(words) == 5 and words[0].isdigit() and (not batch or words[2] == "batch"):
            every.add(int(words[0]))
            if words[4].isdigit():
                leaders[int(words[4])] = int(words[0])
    return leaders, every


def configuration() -> dict[str, str]:
    """Return Slurm's settings as `scontrol show config` prints them. Raises SlurmError."""
    found = {}
    for line in run("scontrol", "show", "config").splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found[name.strip()] = value.strip()
    return found


def nodes(partition: str) -> dict[str, dict[str, str]]:
    """Return the nodes of a partition, none where there is no such, by name. Raises SlurmError."""
    found = {}
    for line in run("scontrol", "-o", "show", "node").splitlines():
        values = fields(line)
        if partition in values.get("Partitions", "").split(","):
            found[values.get("NodeName", "")] = values
    return found


def version() -> str:
    """Return Slurm's version, for example "24.11.5". Raises SlurmError."""
    return run("scontrol", "--version").split()[-1]


def expand(nodelist: str) -> list[str]:
    """Return the nodes of a list like "n[0-2],x". Raises SlurmError."""
    found = run("scontrol", "show", "hostnames", nodelist).split() if nodelist else []
    if nodelist and not found:
        raise SlurmError(f"{nodelist!r:.60} is no list of nodes to Slurm")
    return found


def compress(nodes: Iterable[str]) -> str:
    """Return nodes as Slurm lists them, sorted and each once. Raises SlurmError."""
    names = ",".join(dict.fromkeys(nodes))
    return run("scontrol", "show", "hostlistsorted", names).strip() if names else ""


def submit(
    script: str, options: Mapping[str, str] = NONE, environment: Mapping[str, str] = NONE
) -> int:
    """Submit a batch job; return its id. Raises SlurmError.

    The job's environment is sbatch's own, which is the one wanted and nothing more.
    """
    given = {**_kept(), **environment}
    words = [f"--{name}={options[name]}" for name in options if SUBMIT_OPTIONS[name]]
    said = run("sbatch", "--parsable", *words, input=script, given=given)
    number = said.strip().split("\n")[-1].split(";")[0]  # JOB, or JOB;CLUSTER
    if not number.isdigit():
        raise SlurmError(f"sbatch: not understood: {said.strip():.80}")
    return int(number)


def signal(job_id: int, step_id: int, number: int) -> None:
    """Send a signal to a step's tasks. Raises AlreadyDone, SlurmError."""
    if not is_running(job_id, step_id):  # scancel says nothing of it
        raise AlreadyDone(f"step {job_id}.{step_id}: no such step is running")
    run("scancel", f"--signal={number}", f"{job_id}.{step_id}")


def kill_step(job_id: int, step_id: int) -> None:
    """End a step at once. Raises SlurmError."""
    run("scancel", "--signal=KILL", f"{job_id}.{step_id}")


def cancel(job_id: int) -> None:
    """End a job at once. Raises SlurmError, NoSuchJob."""
    run("scancel", _alone(job(job_id)))


def requeue(job_id: int) -> None:
    """Put a running job back into the queue, under the same id. Raises SlurmError, NoSuchJob."""
    run("scontrol", "requeue", _alone(job(job_id)))


def end_script(found: Job) -> None:
    """End a job's batch script at once. Raises SlurmError."""
    run("scancel", "--batch", "--signal=KILL", _alone(found))


def _alone(found: Job) -> str:
    """Return a job's name for commands that take the id of an array's last task for the array."""
    task, array = found.fields.get("ArrayTaskId"), found.fields.get("ArrayJobId")
    return f"{array}_{task}" if task and array else str(found.job_id)
