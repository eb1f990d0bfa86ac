# SPDX-License-Identifier: GPL-2.0-or-later
"""Slurm's answers by way of PySlurm: the other implementation of api.py's interface.

It owns the loading of PySlurm, which is careful, and the translation of what it says into
scontrol's words. A question that PySlurm cannot answer goes to `commands`, with the reason kept in
`given_up`; so does what it would answer wrongly (each is said where it is). What acts and failed is
not tried again, unless a second time does no harm.

PySlurm's RPCs hold the interpreter's lock: see api.py for what is therefore not asked here.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import signal as signals
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Callable, TypeVar, cast

from pycr.errors import AlreadyDone, NoSuchJob, PycrError, SlurmError
from pycr.slurm import BATCH, Job, Layout, Step, commands, job_state

TRIAL = 5  # seconds for libslurm to read its configuration
NO_AUTO_INIT = "PYSLURM_DISABLE_AUTO_INIT"
INVALID_JOB = 2017  # ESLURM_INVALID_JOB_ID
UNITS = "MGTP"

_pyslurm: Any = None
given_up: list[str] = []  # what was left to the commands, and why
Function = TypeVar("Function", bound=Callable[..., Any])


class Unusable(Exception):
    """PySlurm cannot be used here; the text says why."""


class Unanswered(Exception):
    """PySlurm has no right answer to this question; the text says why."""


def load(matching: bool = True) -> str:
    """Import PySlurm and start libslurm; return PySlurm's version.

    matching: refuse one that was built for another Slurm than the libslurm that it has loaded.
    Raises Unusable.
    """
    global _pyslurm
    if importlib.util.find_spec("pyslurm") is None:
        raise Unusable("PySlurm is not installed")
    # Its import would start libslurm, and sets how all later extensions are opened.
    before, flags = os.environ.get(NO_AUTO_INIT), sys.getdlopenflags()
    os.environ[NO_AUTO_INIT] = "1"
    try:
        module: Any = importlib.import_module("pyslurm")
    except Exception as error:  # ImportError where symbols are missing; what else, it decides
        raise Unusable(f"PySlurm cannot be imported: {error}") from error
    finally:
        sys.setdlopenflags(flags)
        if before is None:
            del os.environ[NO_AUTO_INIT]
        else:
            os.environ[NO_AUTO_INIT] = before
    built, here = _dotted(*module.slurm_api_version()), _try(module.slurm_init)
    if matching and built != here:
        raise Unusable(
            f"PySlurm {module.__version__} was built for Slurm {built}, and libslurm here is"
            f" {here or 'of none that it tells'}: build it again"
        )
    module.slurm_init()
    _pyslurm = module
    return str(module.__version__)


def _dotted(major: int, minor: int, micro: int) -> str:
    return f"{major}.{minor:02}.{micro}"


def _try(start: Callable[[], None]) -> str:
    """Try in a child whether libslurm can start; return its version. Raises Unusable.

    With no slurm.conf it waits for a minute and exits; with one that it cannot read it exits.
    The version is that of the libslurmfull.so that PySlurm's extensions have loaded: its name has
    none, and its structures change with any release. PySlurm knows that of its headers.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signals.signal(signals.SIGALRM, signals.SIG_DFL)
            signals.alarm(TRIAL)
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            import ctypes

            library = ctypes.CDLL(None)
            library.print_slurm_version()
            library.fflush(None)
            start()
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, errors="replace") as pipe:
        version, *said = [line.strip() for line in pipe if line.strip()] or [""]
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signals.SIGALRM:
        said.append(f"not within {TRIAL} s")
    if status:
        raise Unusable(f"libslurm does not start: {': '.join(said[:1] + said[1:][-1:])}")
    return version.split()[-1] if version else ""


def _or_command(function: Function) -> Function:
    """Have a function's namesake in `commands` answer where PySlurm cannot."""

    @functools.wraps(function)
    def ask(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except PycrError:
            raise
        except Exception as error:  # RPCError, and whatever PySlurm trips over
            text = f"{function.__name__}: {str(error) or type(error).__name__}"
            if text not in given_up:
                given_up.append(text)
            return getattr(commands, function.__name__)(*arguments)

    return cast(Function, ask)


@_or_command
def job(job_id: int) -> Job:
    """Return a job. Raises NoSuchJob, SlurmError."""
    try:
        found = _pyslurm.Job.load(job_id)
    except _pyslurm.RPCError as error:
        if error.errno == INVALID_JOB:
            raise _no_such(job_id) from error
        raise
    if found.id != job_id:
        # An array's first id shows all its tasks, and load() takes whichever comes first.
        raise Unanswered("one task of several of an array")
    if found.time_limit is None and found.state == "PENDING":
        raise Unanswered("no limit, or the partition's: PySlurm has one word for both")
    if found.gres_per_node:
        raise Unanswered("a job with generic resources, whose spelling is scontrol's")
    user = found.user_name
    return Job(job_id, user, found.user_id, job_state(found.state), dict(_job_fields(found, user)))


def _no_such(job_id: int) -> NoSuchJob:
    return NoSuchJob(f"job {job_id}: Slurm knows no such job, or no longer")


def _job_fields(found: Any, user: str) -> Iterator[tuple[str, str]]:
    """Yield what is known of a job as scontrol would print it."""
    yield "JobId", str(found.id)
    yield "JobName", found.name or ""
    yield "UserId", f"{user}({found.user_id})"
    yield "JobState", found.state
    yield "BatchFlag", str(int(bool(found.is_batch_job)))
    yield "Requeue", str(int(bool(found.is_requeueable)))
    for name, number in (
        ("ArrayJobId", found.array_id),
        ("HetJobId", found.heterogeneous_id),
    ):
        if number:
            yield name, str(number)
    if found.array_id:
        yield "ArrayTaskId", str(found.array_task_id)
    for name, value in (
        ("BatchHost", found.batch_host),
        ("NodeList", found.allocated_nodes),
        ("NumNodes", found.num_nodes),
        ("NumTasks", found.ntasks),
        ("CPUs/Task", found.cpus_per_task),
        ("MinMemoryCPU", _size(found.memory_per_cpu)),
        ("MinMemoryNode", "" if found.memory_per_cpu else _size(found.memory_per_node)),
        ("Partition", found.partition),
        ("Account", found.account),
        ("QOS", found.qos),
        ("TimeLimit", _minutes(found.time_limit)),
        ("Features", found.constraints),
        ("Reservation", found.reservation),
        ("WorkDir", found.working_directory),
        ("StartTime", found.start_time),
    ):
        if value:
            yield name, str(value)


def _size(mebibytes: int | None) -> str:
    """Spell memory as scontrol does: 100M, 2G."""
    if not mebibytes:
        return ""
    unit = 0
    while mebibytes % 1024 == 0 and unit + 1 < len(UNITS):
        mebibytes, unit = mebibytes // 1024, unit + 1
    return f"{mebibytes}{UNITS[unit]}"


def _minutes(limit: int | None) -> str:
    """Spell a time limit as scontrol does: 1-02:30:00, UNLIMITED."""
    if limit is None:
        return "UNLIMITED"
    days, minutes = divmod(limit, 24 * 60)
    text = f"{minutes // 60:02}:{minutes % 60:02}:00"
    return f"{days}-{text}" if days else text


@_or_command
def steps(job: Job) -> list[Step]:
    """Return the running steps of a job that srun started, in order. Raises SlurmError."""
    found = _pyslurm.JobSteps.load(job.job_id)
    made = []
    for step_id in sorted(each for each in found if isinstance(each, int)):
        one = found[step_id]
        # Of a heterogeneous step's parts this is but one, and nothing else of it says so.
        if ":" in (one.command or ":").split():
            raise Unanswered(f"step {step_id} may have parts")
        nodes = ",".join(one.allocated_nodes)
        values = {
            "StepId": f"{job.job_id}.{step_id}",
            "Name": one.name or "",
            "StartTime": str(one.start_time or ""),
            "State": one.state,
            "NodeList": nodes,
            "CPUs": str(one.cpus),
        }
        made.append(
            Step(
                job_id=job.job_id,
                step_id=step_id,
                uid=one.user_id,
                state=one.state,
                tasks=one.ntasks,
                nodes=len(_expand(nodes)),
                fields=values,
            )
        )
    return made


@_or_command
def is_running(job_id: int, step_id: int) -> bool:
    """Tell whether Slurm still knows a step. Raises SlurmError."""
    if step_id == BATCH:
        return True  # it is where this is asked
    try:
        _pyslurm.JobStep.load(job_id, step_id)
    except _pyslurm.RPCError as error:
        if error.errno == INVALID_JOB:
            return False
        raise
    return True


def layout(job_id: int, step_id: int) -> Layout:
    """Return which tasks of a step are on which node. Raises SlurmError, AlreadyDone.

    PySlurm has no step's layout, and its get_resource_layout_per_node() ends the process (26.05).
    """
    return commands.layout(job_id, step_id)


@_or_command
def configuration() -> dict[str, str]:
    """Return those of Slurm's settings that api.SETTINGS names. Raises SlurmError."""
    found = _pyslurm.slurmctld.Config.load()
    return {
        "PlugStackConfig": found.plugin_stack_config or "(null)",
        "ProctrackType": found.proctrack_type or "(null)",
        "SLURM_CONF": found.slurm_conf_path or "(null)",
        "SlurmdSpoolDir": found.slurmd_spool_directory or "(null)",
    }


@_or_command
def nodes(partition: str) -> dict[str, dict[str, str]]:
    """Return the nodes of a partition, none where there is no such, by name. Raises SlurmError."""
    return {
        each.name: {
            "NodeName": each.name,
            "Arch": each.architecture or "",
            "State": each.state,
            "Partitions": ",".join(each.partitions),
        }
        for each in _pyslurm.Nodes.load().values()
        if partition in each.partitions
    }


def version() -> str:
    """Return Slurm's version, for example "24.11.5"."""
    return _dotted(*_pyslurm.slurm_api_version())


def _expand(nodelist: str) -> list[str]:
    return list(_pyslurm.utils.nodelist_from_range_str(nodelist))


@_or_command
def expand(nodelist: str) -> list[str]:
    """Return the nodes of a list like "n[0-2],x". Raises SlurmError."""
    found = _expand(nodelist) if nodelist else []
    if nodelist and not found:
        raise Unanswered(f"{nodelist!r:.60}")
    return found


@_or_command
def compress(nodes: Iterable[str]) -> str:
    """Return nodes as Slurm lists them, sorted and each once. Raises SlurmError."""
    made = _pyslurm.hostlist()
    made.create(",".join(nodes))
    made.uniq()
    return str(made.ranged_string())


def submit(
    script: str,
    options: Mapping[str, str] = commands.NONE,
    environment: Mapping[str, str] = commands.NONE,
) -> int:
    """Submit a batch job; return its id. Raises SlurmError."""
    given = {commands.SUBMIT_OPTIONS[name]: value for name, value in options.items()}
    wanted = {**commands.environment(for_reading=False), **environment}
    with _without_slurm_variables():
        try:
            described = _pyslurm.JobSubmitDescription(script=script, environment=wanted, **given)
            return int(described.submit())
        except (_pyslurm.PyslurmError, ValueError, TypeError) as error:
            raise SlurmError(f"the job was not submitted: {error}") from error


@contextmanager
def _without_slurm_variables() -> Iterator[None]:
    """Hide this process's SLURM_*: PySlurm would give the job those of the job that this is in."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("SLURM_")}
    for name in kept:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(kept)


def requeue(job_id: int) -> None:
    """Put a running job back into the queue, under the same id. Raises SlurmError, NoSuchJob."""
    try:
        _pyslurm.Job(job_id).requeue()
    except _pyslurm.RPCError as error:
        if error.errno == INVALID_JOB:
            raise _no_such(job_id) from error
        raise SlurmError(f"requeue of job {job_id}: {error}") from error


def signal(job_id: int, step_id: int, number: int) -> None:
    """Send a signal to a step's tasks. Raises AlreadyDone, SlurmError.

    JobStep(job_id, step_id).send_signal() would do nothing and say nothing: it must be loaded.
    """
    if not is_running(job_id, step_id):
        raise AlreadyDone(f"step {job_id}.{step_id}: no such step is running")
    try:
        _pyslurm.JobStep.load(job_id, step_id).send_signal(number)
    except _pyslurm.RPCError as error:
        raise SlurmError(f"signal {number} to step {job_id}.{step_id}: {error}") from error


@_or_command
def kill_step(job_id: int, step_id: int) -> None:
    """End a step at once. Raises SlurmError."""
    _pyslurm.JobStep.load(job_id, step_id).send_signal(signals.SIGKILL)


@_or_command
def cancel(job_id: int) -> None:
    """End a job at once. Raises SlurmError."""
    _pyslurm.Job.load(job_id).cancel()
