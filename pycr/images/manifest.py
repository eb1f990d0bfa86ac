# SPDX-License-Identifier: GPL-2.0-or-later
"""manifest.json: what a generation says of itself, and what is believed of it when it is read.

The text is a JSON object headed by a line with its own SHA-256, so that a half-written or changed
one is known; then every field is checked by name, type and range, since its reader runs with a
capability. docs/image-format.md is the reference; where the file lies is for image.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

from pycr.errors import ImageError
from pycr.identity import VARIABLE
from pycr.slurm import geometry_from

FORMAT = 3
LONG = 1e12  # seconds: no time in a manifest is as long
MAX_TASKS = 1 << 20
MAX_PID = 1 << 22
_STEP = re.compile(r"[0-9]{1,10}\.[0-9]{1,10}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")


class TaskImage(NamedTuple):
    """One task in the manifest.

    files: name -> [size in bytes, SHA-256]. began: seconds since the epoch. frozen, seconds: how
    long the task stood still, and the dump took in all. pids: the processes, the root first;
    max_pid: the highest id in use in the tree, of threads, groups and sessions too. environment:
    what Slurm's variables have been in the jobs that it was restarted in so far (null: absent);
    and which step of its job's script it is (identity.py).
    """

    task_id: int
    node: str
    pids: list[int]
    max_pid: int
    exe: str
    args: list[str]
    cwd: str
    streams: list[dict[str, Any]]
    began: float
    frozen: float
    seconds: float
    files: dict[str, tuple[int, str]]
    environment: dict[str, list[str | None]]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(size for size, _ in self.files.values())


class Manifest(NamedTuple):
    """What manifest.json says. geometry: see slurm.Geometry; hosts: node -> facts about it;
    batch: what is said of a batch script alone (coordinator/batch.py), {} for a step. work:
    seconds that the step, or the script, had run for, in its earlier lives too; 0 where not
    known."""

    job_id: int
    step_id: int
    generation: int
    user: str
    uid: int
    command: list[str]
    cwd: str
    created: float
    work: float
    kept_running: bool
    geometry: dict[str, Any]
    hosts: dict[str, dict[str, str]]
    versions: dict[str, str]
    batch: dict[str, Any]
    tasks: list[TaskImage]

    @property
    def size(self) -> int:
        """Bytes on disk, of all tasks."""
        return sum(task.size for task in self.tasks)

    @property
    def key(self) -> str:
        """Which step of its job's script it is of (identity.py), "" where that is not known."""
        known = self.tasks[0].environment.get(VARIABLE) or [None]
        return known[-1] or ""

    @property
    def frozen(self) -> float:
        """Seconds that the task which stood still longest did."""
        return max((task.frozen for task in self.tasks), default=0.0)

    def dumps(self) -> bytes:
        """Return the text of manifest.json: the checksum's line, then what it is of."""
        return seal(json.dumps(self.json(), indent=1, allow_nan=False).encode())

    def json(self) -> dict[str, Any]:
        """Return the manifest as the object that manifest.json holds."""
        tasks = [task._asdict() for task in self.tasks]
        return {"format": FORMAT, **self._asdict(), "tasks": tasks}

    @classmethod
    def loads(cls, data: bytes, where: str) -> Manifest:
        """Parse and check manifest.json. Raises ImageError; `where` is its path."""
        try:
            value = json.loads(unseal(data), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ImageError(f"{where}: damaged: {error}") from error
        if not isinstance(value, dict):
            raise ImageError(f"{where}: damaged: no object")
        if value.get("format") != FORMAT:
            raise ImageError(
                f"{where}: format {value.get('format')!r:.20} is not the {FORMAT} that this pycr"
                " reads: restart it with the pycr that wrote it"
            )
        value.pop("format")
        value.setdefault("work", 0.0)  # the first ones of this format had none
        try:
            tasks = [_typed(TaskImage, task) for task in value.pop("tasks")]
            manifest: Manifest = _typed(cls, {**value, "tasks": []})._replace(tasks=tasks)
            manifest.check()
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ImageError(f"{where}: damaged: {error}") from error
        return manifest

    def check(self) -> None:
        """Check what types alone do not say. Raises ValueError."""
        if not 0 < len(self.tasks) <= MAX_TASKS:
            raise ValueError(f"{len(self.tasks)} tasks")
        if not all(isinstance(word, str) for word in self.command):
            raise ValueError("command")
        for facts in (self.versions, *self.hosts.values()):
            if not isinstance(facts, dict) or not all(type(v) is str for v in facts.values()):
                raise ValueError("hosts or versions")
        geometry_from(self.geometry)
        if self.batch:
            check_batch(self.batch)
        if [task.task_id for task in self.tasks] != list(range(len(self.tasks))):
            raise ValueError("its tasks are not numbered from 0")
        for task in self.tasks:
            for name, entry in task.files.items():
                if not _FILE.fullmatch(name) or not _is_file_entry(entry):
                    raise ValueError(f"task {task.task_id}: file {name!r:.80}")
                task.files[name] = (entry[0], entry[1])
            if not (
                [stream.get("fd") for stream in task.streams if isinstance(stream, dict)]
                == [0, 1, 2]
                and all(set(stream) == {"fd", "kind", "name"} for stream in task.streams)
                and all(
                    type(stream["kind"]) is type(stream["name"]) is str for stream in task.streams
                )
            ):
                raise ValueError(f"task {task.task_id}: streams")
            for past in task.environment.values():
                if not isinstance(past, list) or not all(
                    value is None or isinstance(value, str) for value in past
                ):
                    raise ValueError(f"task {task.task_id}: environment")
            if not all(isinstance(word, str) for word in task.args):
                raise ValueError(f"task {task.task_id}: args")
            if not (
                task.pids
                and task.max_pid < MAX_PID
                and all(type(pid) is int and 0 < pid <= task.max_pid for pid in task.pids)
            ):
                raise ValueError(f"task {task.task_id}: pids")


# A batch script's own part of a manifest: path of its file and how far it had been read, -1 where
# it was not open; the job's directory and nodes; the steps that are in the generation.
_BATCH: dict[str, type] = {
    "script": str,
    "offset": int,
    "work_dir": str,
    "nodelist": str,
    "home": str,
    "steps": list,
}


def check_batch(batch: dict[str, Any]) -> None:
    """Check a batch script's own part. Raises ValueError."""
    if {name: type(value) for name, value in batch.items()} != _BATCH:
        raise ValueError("batch")
    if not all(isinstance(name, str) and _STEP.fullmatch(name) for name in batch["steps"]):
        raise ValueError("batch: steps")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _is_file_entry(entry: Any) -> bool:
    return (
        isinstance(entry, (list, tuple))
        and len(entry) == 2
        and isinstance(entry[0], int)
        and 0 <= entry[0] < 1 << 63
        and isinstance(entry[1], str)
        and re.fullmatch("[0-9a-f]{64}", entry[1]) is not None
    )


_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
}


def _typed(cls: Any, value: Any) -> Any:
    """Build a named tuple from an object that has its fields, all of them, of their types."""
    if not isinstance(value, dict):
        raise TypeError("no object")
    # NamedTuple keeps each annotation as a ForwardRef of its text.
    names = {
        name: getattr(kind, "__forward_arg__", kind) for name, kind in cls.__annotations__.items()
    }
    if set(value) != set(names):
        odd = sorted(set(value) ^ set(names))[0]
        raise KeyError(f"field {odd:.40}")
    for name, kind in names.items():
        wanted = _KINDS[kind.split("[")[0]]
        if not isinstance(value[name], wanted) or (
            isinstance(value[name], bool) and bool not in wanted
        ):
            raise TypeError(f"{name} is no {kind}")
        if kind == "float" and not 0 <= value[name] < LONG:
            raise ValueError(f"{name} is no time")
    return cls(**value)


def seal(body: bytes) -> bytes:
    """Return a JSON text headed by a line with its own checksum."""
    digest = hashlib.sha256(body).hexdigest()
    return b'{"sha256": "' + digest.encode() + b'", "manifest":\n' + body + b"\n}\n"


def unseal(data: bytes) -> bytes:
    """Return what seal() was given. Raises ValueError where it is not whole."""
    head, _, rest = data.partition(b"\n")
    match = re.fullmatch(rb'\{"sha256": "([0-9a-f]{64})", "manifest":', head)
    if match is None or not rest.endswith(b"\n}\n"):
        raise ValueError("not a whole manifest")
    body = rest[:-3]
    if hashlib.sha256(body).hexdigest().encode() != match.group(1):
        raise ValueError("its checksum does not match")
    return body
