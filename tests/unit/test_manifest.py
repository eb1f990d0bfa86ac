# SPDX-License-Identifier: GPL-2.0-or-later
"""manifest.json: what is written comes back, and nothing else is believed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from pycr.errors import ImageError
from pycr.images import manifest
from pycr.images.manifest import Manifest, TaskImage

SHA = "0" * 64


BATCH_PART: dict[str, Any] = {
    "script": "/var/spool/slurmd/job00012/slurm_script",
    "offset": 77,
    "work_dir": "/home/alice",
    "nodelist": "n[0-1]",
    "home": "/scratch/alice",
    "steps": [],
}


def made(tasks: int = 2, generation: int = 1) -> Manifest:
    return Manifest(
        job_id=12,
        step_id=0,
        generation=generation,
        user="alice",
        uid=os.getuid(),
        command=["./app", "a b", "\udcff"],
        cwd="/tmp",
        created=1.5,
        work=60.25,
        kept_running=True,
        geometry={"tasks": tasks, "nodes": 1},
        hosts={"n0": {"kernel": "6.18"}},
        versions={"pycr": "0"},
        batch={},
        tasks=[
            TaskImage(
                task_id=task,
                node="n0",
                pids=[100, 101],
                max_pid=101,
                exe="/bin/app",
                args=["./app"],
                cwd="/tmp",
                streams=[{"fd": fd, "kind": "file", "name": "/tmp/out"} for fd in range(3)],
                began=1.0,
                frozen=0.25 * task,
                seconds=0.5,
                files={"core-1.img": (3, SHA), "pages-1.img": (4096, SHA)},
                environment={"SLURM_JOB_ID": ["11", None]},
            )
            for task in range(tasks)
        ],
    )


def test_manifest_comes_back() -> None:
    wanted = made(3)
    assert Manifest.loads(wanted.dumps(), "m") == wanted
    assert (wanted.size, wanted.frozen) == (3 * 4099, 0.5)
    # It is JSON, for other tools.
    assert json.loads(wanted.dumps())["manifest"]["job_id"] == 12


def test_manifest_of_a_batch_script_comes_back() -> None:
    for part in (BATCH_PART, {**BATCH_PART, "offset": -1, "steps": ["12.0", "12.4294901760"]}):
        wanted = made(1)._replace(batch=part)
        assert Manifest.loads(wanted.dumps(), "m") == wanted


def test_manifest_without_its_work_had_none_that_is_known() -> None:
    value = made().json()
    del value["work"]
    body = json.dumps(value).encode()
    assert Manifest.loads(manifest.seal(body), "m") == made()._replace(work=0.0)


def test_not_a_number_is_not_written() -> None:
    wanted = made()._replace(created=float("nan"))
    with pytest.raises(ValueError, match=r"."):
        wanted.dumps()


def test_any_changed_byte_is_noticed() -> None:
    data = made(1).dumps()
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(ImageError, match=r"^m: damaged: "):
            Manifest.loads(changed, "m")


def test_any_truncation_is_noticed() -> None:
    data = made(1).dumps()
    for length in range(len(data)):
        with pytest.raises(ImageError, match=r"^m: damaged: "):
            Manifest.loads(data[:length], "m")
    with pytest.raises(ImageError, match="damaged"):
        Manifest.loads(data + b"\n", "m")


def sealed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a manifest with something changed and its checksum right."""
    value = json.loads(made().dumps())["manifest"]
    change(value)
    return manifest.seal(json.dumps(value).encode())


def put(*keys: Any) -> Callable[[dict[str, Any]], object]:
    """Return a function that sets value[key]...[key] to the last of `keys`."""

    def change(value: Any) -> None:
        for key in keys[:-2]:
            value = value[key]
        value[keys[-2]] = keys[-1]

    return change


WRONG = {
    "no tasks": put("tasks", []),
    "tasks no list": put("tasks", {}),
    "task no object": put("tasks", 0, []),
    "null task": put("tasks", 0, None),
    "task missing": lambda value: value["tasks"].pop(0),
    "task twice": put("tasks", 1, "task_id", 0),
    "task id text": put("tasks", 0, "task_id", "0"),
    "task id true": put("tasks", 1, "task_id", True),
    "no job": lambda value: value.pop("job_id"),
    "job text": put("job_id", "12"),
    "job null": put("job_id", None),
    "uid fraction": put("uid", 0.5),
    "kept number": put("kept_running", 1),
    "work text": put("work", "60"),
    "work negative": put("work", -1.0),
    "more": put("surprise", 1),
    "more in a task": put("tasks", 0, "surprise", 1),
    "command text": put("command", "app"),
    "geometry list": put("geometry", []),
    "geometry without nodes": put("geometry", {"tasks": 1}),
    "geometry's nodes": put("geometry", "nodes", [1]),
    "geometry's tasks": put("geometry", "tasks", 1 << 31),
    "geometry's name": put("geometry", "name", ["a"]),
    "geometry's name number": put("geometry", "name", 7),
    "geometry's other": put("geometry", "colour", "red"),
    "up": put("tasks", 0, "files", "../../etc/passwd", [1, SHA]),
    "dots": put("tasks", 0, "files", "..", [1, SHA]),
    "slash": put("tasks", 0, "files", "a/b", [1, SHA]),
    "absolute": put("tasks", 0, "files", "/etc/passwd", [1, SHA]),
    "empty": put("tasks", 0, "files", "", [1, SHA]),
    "hidden": put("tasks", 0, "files", ".x", [1, SHA]),
    "nul": put("tasks", 0, "files", "a\0b", [1, SHA]),
    "newline": put("tasks", 0, "files", "a\n", [1, SHA]),
    "not ascii": put("tasks", 0, "files", "é", [1, SHA]),
    "long": put("tasks", 0, "files", "x" * 300, [1, SHA]),
    "negative size": put("tasks", 0, "files", "a", [-1, SHA]),
    "huge size": put("tasks", 0, "files", "a", [1 << 63, SHA]),
    "size text": put("tasks", 0, "files", "a", ["1", SHA]),
    "short sum": put("tasks", 0, "files", "a", [1, "0"]),
    "sum newline": put("tasks", 0, "files", "a", [1, SHA + "\n"]),
    "sum number": put("tasks", 0, "files", "a", [1, 0]),
    "three": put("tasks", 0, "files", "a", [1, SHA, 2]),
    "files list": put("tasks", 0, "files", []),
    "stream": put("tasks", 0, "streams", [{"fd": 1}]),
    "stream text": put("tasks", 0, "streams", ["x"]),
    "streams out of order": lambda value: value["tasks"][0]["streams"].reverse(),
    "stream name number": put("tasks", 0, "streams", 1, "name", 7),
    "stream kind null": put("tasks", 0, "streams", 1, "kind", None),
    "stream with more": put("tasks", 0, "streams", 1, "more", 1),
    "two streams": lambda value: value["tasks"][0]["streams"].pop(),
    "argument number": put("tasks", 0, "args", [1]),
    "command number": put("command", [1]),
    "host text": put("hosts", "n0", "x"),
    "created before": put("created", -1),
    "created never": put("created", 1e300),
    "environment list": put("tasks", 0, "environment", []),
    "environment text": put("tasks", 0, "environment", {"A": "1"}),
    "environment number": put("tasks", 0, "environment", {"A": [1]}),
    "pid 0": put("tasks", 0, "pids", [0]),
    "pid -1": put("tasks", 0, "pids", [-1]),
    "pid huge": put("tasks", 0, "pids", [1 << 22]),
    "pid true": put("tasks", 0, "pids", [True]),
    "no pids": put("tasks", 0, "pids", []),
    "pid over the highest": put("tasks", 0, "pids", [102]),
    "highest pid huge": put("tasks", 0, "max_pid", 1 << 22),
    "host fact number": put("hosts", "n0", "kernel", 6.18),
    "version list": put("versions", "pycr", []),
    "pid text": put("tasks", 0, "pids", ["1"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_manifest_with_wrong_content(name: str) -> None:
    with pytest.raises(ImageError, match=r"^m: damaged: ") as caught:
        Manifest.loads(sealed(WRONG[name]), "m")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def put_batch(name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    """Return a function that gives a manifest a batch script's part with something wrong in it."""

    def change(whole: Any) -> None:
        whole["batch"] = {**BATCH_PART, name: value}

    return change


WRONG_BATCH = {
    "null": put("batch", None),
    "list": put("batch", []),
    "missing": put("batch", {**BATCH_PART, "offset": 1, "script": "/x", "steps": 7}),
    "one field": put("batch", {"script": "/x"}),
    "more": put_batch("surprise", 1),
    "script number": put_batch("script", 7),
    "script null": put_batch("script", None),
    "offset text": put_batch("offset", "7"),
    "offset fraction": put_batch("offset", 7.0),
    "offset true": put_batch("offset", True),
    "work_dir number": put_batch("work_dir", 7),
    "nodelist list": put_batch("nodelist", []),
    "home null": put_batch("home", None),
    "steps text": put_batch("steps", "12.0"),
    "step number": put_batch("steps", [12]),
    "step up": put_batch("steps", ["../12.0"]),
    "step down": put_batch("steps", ["12.0/.."]),
    "step slash": put_batch("steps", ["12.0/"]),
    "step absolute": put_batch("steps", ["/12.0"]),
    "step dots": put_batch("steps", [".."]),
    "step empty": put_batch("steps", [""]),
    "step batch": put_batch("steps", ["12.batch"]),
    "step newline": put_batch("steps", ["12.0\n"]),
    "step nul": put_batch("steps", ["12.0\0"]),
    "step digits": put_batch("steps", ["١٢.0"]),
}


@pytest.mark.parametrize("name", WRONG_BATCH)
def test_batch_script_with_wrong_content(name: str) -> None:
    with pytest.raises(ImageError, match=r"^m: damaged: "):
        Manifest.loads(sealed(WRONG_BATCH[name]), "m")


@pytest.mark.parametrize("number", [0, 1, 1.5, "1", None, [], "x" * 1000])
def test_manifest_of_another_format(number: object) -> None:
    with pytest.raises(
        ImageError, match=r"^m: format .* is not the 3 that this pycr reads"
    ) as caught:
        Manifest.loads(sealed(put("format", number)), "m")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b'{"format": NaN}',
        b'{"format": Infinity}',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"\xff\xfe",
        b"9" * 10_000,
        b'{"format": 1}',
    ],
    ids=lambda text: repr(text[:20]),
)
def test_sealed_garbage(text: bytes) -> None:
    with pytest.raises(ImageError, match=r"^m: "):
        Manifest.loads(manifest.seal(text), "m")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_numbers_that_are_none(text: str) -> None:
    body = json.dumps(json.loads(made().dumps())["manifest"]).replace(
        '"created": 1.5', f'"created": {text}'
    )
    with pytest.raises(ImageError, match=r"^m: damaged: "):
        Manifest.loads(manifest.seal(body.encode()), "m")
