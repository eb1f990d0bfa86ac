# SPDX-License-Identifier: GPL-2.0-or-later
"""manifest.json: what loads can be written and loads the same, and what is done with it works."""

from __future__ import annotations

import json
from pathlib import Path

from pycr.cli import restart
from pycr.engine.proc import Stream
from pycr.errors import ImageError
from pycr.images.manifest import MAX_PID, Manifest, seal, unseal
from pycr.slurm import geometry_from
from tests.unit.test_manifest import BATCH_PART
from tests.unit.test_manifest import made as manifest


def made() -> list[bytes]:
    """Return bodies, whose checksum check() makes right, and changes to one: see patched()."""
    found = [manifest(tasks) for tasks in (1, 3)]
    found.append(manifest(1)._replace(batch={**BATCH_PART, "steps": ["12.0"]}))
    bodies = [unseal(each.dumps()) for each in found]
    changes = [
        [[["created"], 1e999]],
        [[["geometry", "tasks"], "1"], [["geometry", "more"], 1]],
        [[["tasks", 0, "pids"], [True]], [["tasks", 0, "max_pid"], 0]],
        [[["tasks", 0, "files", "../x"], [1, "0" * 64]]],
        [[["tasks", 0, "environment", "A"], [None, 1]]],
        [[["tasks", 1, "streams", 0, "kind"], None]],
        [[["batch"], BATCH_PART], [["batch", "steps"], ["12.0", "../13"]]],
        [[["hosts", "n0", "cpu"], []]],
        [[["geometry", "name"], nested(50)]],
    ]
    return [*bodies, *(json.dumps(each).encode() for each in changes)]


def nested(depth: int) -> list[object]:
    """Return lists in one another."""
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


def patched(data: bytes) -> bytes | None:
    """Return a manifest with changes, a list of [path, value], made to it; None for no such list.

    So seeds that reach deep stay good when the format changes.
    """
    whole = json.loads(unseal(manifest(2).dumps()))
    try:
        for path, value in json.loads(data):
            at = whole
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value
        return json.dumps(whole).encode()
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def follows(data: bytes) -> bool:
    """Tell whether a seed is good whatever the format is, and so worth keeping."""
    return patched(data) is not None


def check(data: bytes) -> None:
    """Load it as it is, as a body with its checksum right, and as changes to a good one."""
    changed = patched(data)
    for text in (data, seal(data), *([seal(changed)] if changed is not None else [])):
        try:
            found = Manifest.loads(text, "m")
        except ImageError as error:
            assert "\n" not in str(error)
            continue
        assert Manifest.loads(found.dumps(), "m") == found
        _use(found)


def _use(found: Manifest) -> None:
    """Do what the commands do with one."""
    command = restart.srun(Path("/d"), found, geometry_from(found.geometry), [], False)
    assert all(type(word) is str for word in command)
    json.dumps(found.json(), indent=1)
    assert found.size >= 0
    assert found.frozen >= 0
    for task in found.tasks:
        assert len(task.pids) > 0
        assert all(0 < pid <= task.max_pid < MAX_PID for pid in task.pids)
        assert [Stream(**stream).fd for stream in task.streams] == [0, 1, 2]
        for name, (size, digest) in task.files.items():
            assert "/" not in name and name not in (".", "..")
            assert size >= 0 and len(digest) == 64
        for past in task.environment.values():
            assert all(value is None or type(value) is str for value in past)
    for host in found.hosts.values():
        assert all(type(value) is str for value in host.values())
