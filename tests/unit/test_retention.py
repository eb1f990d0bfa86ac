# SPDX-License-Identifier: GPL-2.0-or-later
"""Which generations stay when a new one was made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pycr.errors import Busy, ImageError
from pycr.images import image, retention
from pycr.images.requeue import write_requeue
from pycr.images.retention import Wanted
from pycr.slurm import BATCH
from tests.unit.test_gc import with_key
from tests.unit.test_image import write, write_job


def left(step_dir: Path) -> list[str]:
    return sorted(path.name for path in step_dir.iterdir() if path.name != ".lock")


def damage(generation: Path) -> None:
    (generation / "task.0" / "core-1.img").write_bytes(b"")


def fill(generation: Path) -> Path:
    """Give a batch job's generation the files that its manifests name."""
    for manifest in image.load_all(generation):
        name = image.step_name(manifest.job_id, manifest.step_id)
        place = generation if manifest.batch else generation / name
        for task in manifest.tasks:
            for file, (size, _) in task.files.items():
                (place / image.task_name(task.task_id) / file).write_bytes(b"x" * size)
    return generation


def test_by_count(tmp_path: Path) -> None:
    paths = [write(tmp_path) for _ in range(4)]
    assert retention.prune(paths[3], Wanted(keep=2)) == [paths[1], paths[0]]
    assert left(paths[0].parent) == ["0003", "0004"]
    assert retention.prune(paths[3], Wanted(keep=2)) == []
    # Behind an older one nothing newer goes.
    assert retention.prune(paths[2], Wanted(keep=1)) == []
    assert retention.prune(paths[3], Wanted(keep=1)) == [paths[2]]


def test_each_step_of_a_script_has_its_own(tmp_path: Path) -> None:
    """In a requeued job another may have a step's number, and has not gone on from these."""
    paths = [with_key(write(tmp_path), key) for key in ("a.0", "a.0", "b.0", "b.0")]
    assert retention.prune(paths[3], Wanted(keep=1)) == [paths[2], paths[0]]
    image.set_aside(paths[3], "it failed")
    more = [with_key(write(tmp_path), "b.0") for _ in range(2)]
    damage(paths[1])  # it may be of either
    assert retention.prune(more[1], Wanted(keep=2)) == [paths[3]]


def test_by_size(tmp_path: Path) -> None:
    """The new one stays, however large it is."""
    paths = [write(tmp_path, b"x" * 100) for _ in range(4)]
    assert retention.prune(paths[3], Wanted(size=250)) == [paths[1], paths[0]]
    assert retention.prune(paths[3], Wanted(keep=9, size=200)) == []
    assert retention.prune(paths[3], Wanted(size=1)) == [paths[2]]
    assert left(paths[0].parent) == ["0004"]


def test_nothing_goes_behind_a_damaged_one(tmp_path: Path) -> None:
    """And a damaged older one counts for nothing."""
    paths = [write(tmp_path) for _ in range(4)]
    damage(paths[3])
    with pytest.raises(ImageError, match=r"core-1\.img: changed"):
        retention.prune(paths[3], Wanted(keep=1))
    assert len(left(paths[0].parent)) == 4
    damage(paths[1])
    assert retention.prune(paths[2], Wanted(keep=2)) == []
    assert retention.prune(paths[2], Wanted(keep=1)) == [paths[1], paths[0]]


def test_what_a_queued_job_starts_from_stays(tmp_path: Path) -> None:
    """Wherever its requeue file is: the image directory's or the job's own."""
    (tmp_path / "a").mkdir()
    paths = [fill(write_job(tmp_path / "a")) for _ in range(3)]
    write_requeue(tmp_path / "a", 12, paths[0])
    assert retention.prune(paths[2], Wanted(keep=1)) == [paths[1]]
    every = [retention.look(path) for path in (paths[2], paths[0])]
    assert retention.needed(every) == {paths[0]}
    home = Path(every[0].manifests[0].batch["home"])
    assert home != tmp_path / "a"
    (tmp_path / "a" / image.step_name(12, BATCH) / "requeue").unlink()
    assert retention.needed(every) == set()


def test_not_while_another_is_written(tmp_path: Path) -> None:
    paths = [write(tmp_path) for _ in range(2)]
    directory = image.open_owned(paths[0].parent)
    lock = image.take_lock(directory, "12.0")
    with pytest.raises(Busy):
        retention.prune(paths[1], Wanted(keep=1))
    assert left(paths[0].parent) == ["0001", "0002"]
    for each in (lock, directory):
        os.close(each)
