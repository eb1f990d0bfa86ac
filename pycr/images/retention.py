# SPDX-License-Identifier: GPL-2.0-or-later
"""Which generations of a step stay when a new one has been made: so many, or so many bytes.

Old ones go only behind a new one that is committed and was looked at again: its manifest, and that
every file is there with its size (the checksums were taken from these files a moment ago). Kept in
any case: the new one, and one that a requeue file names, from which Slurm may start the job again.
In a requeued job another step of the script may have a step's number: each has its own count here.
What a running task was restored from is not needed any more: CRIU reads an image to its end, and
what a restart cut off files lies beside the generations, where it stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pycr.errors import PycrError
from pycr.images import image, removal
from pycr.images.manifest import Manifest
from pycr.images.requeue import read_requeue


class Wanted(NamedTuple):
    """How many generations of a step to keep, and how many bytes of them. 0: any number."""

    keep: int = 0
    size: int = 0


class Generation(NamedTuple):
    """A generation as far as it matters here. manifests: none where it is damaged.

    key: which step of its job's script it is of, "" of none in particular; None: not known.
    """

    path: Path
    manifests: tuple[Manifest, ...] = ()
    key: str | None = None

    @property
    def whole(self) -> bool:
        return bool(self.manifests)

    @property
    def good(self) -> bool:
        """Whether a requeued job would go on from it: it is whole, and was not set aside."""
        return self.whole and not image.aside(self.path)

    @property
    def size(self) -> int:
        """Bytes, by its manifests; of a damaged one, of the files that there are."""
        return sum(each.size for each in self.manifests) if self.whole else disk_use(self.path)

    @property
    def created(self) -> float:
        return self.manifests[0].created if self.whole else os.lstat(self.path).st_mtime


def check(path: Path) -> Generation:
    """Look at a generation: manifests, and every file's presence and size. Raises ImageError."""
    every = image.load_all(path)
    for manifest in every:
        inside = manifest is not every[0]
        name = image.step_name(manifest.job_id, manifest.step_id)
        place = path / name if inside else path
        for task in manifest.tasks:
            os.close(image.check_task(place, task))
    return Generation(path, tuple(every), every[0].key)


def look(path: Path) -> Generation:
    """Look at a generation, which may be damaged."""
    try:
        return check(path)
    except (PycrError, OSError):
        with suppress(PycrError):
            return Generation(path, key=image.load(path).key)
        return Generation(path)


def disk_use(path: Path) -> int:
    """Return the bytes of all files below a directory, following no link."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_size
            except OSError:
                continue  # it has just gone
    return total


def needed(every: Iterable[Generation]) -> set[Path]:
    """Return the generations from which Slurm may start a job again: those in requeue files."""
    found: set[Path] = set()
    for each in every:
        for manifest in each.manifests[:1]:
            places = {each.path.parent.parent, Path(manifest.batch.get("home", "/"))}
            for place in places if manifest.batch else ():
                for name in (image.REQUEUE, image.NEWEST):
                    path = read_requeue(place, manifest.job_id, name)
                    if path is not None:
                        found.add(Path(os.path.realpath(path)))
    return found


def newest(every: Iterable[Generation]) -> set[Path]:
    """Return what a job that is over is restarted from: the newest of each step of its script."""
    found: dict[str, Generation] = {}
    for each in every:
        if each.whole and each.key is not None:
            known = found.setdefault(each.key, each)
            if each.good and not known.good:
                found[each.key] = each
    return {each.path for each in found.values()}


def superfluous(every: Sequence[Generation], wanted: Wanted) -> list[Generation]:
    """Return those of a step's generations, the newest first, that need not stay.

    The first good one always stays. What is damaged or set aside counts for nothing, and goes with
    what is older than the last that stays.
    """
    keep = needed(every)
    keys = {each.key for each in every if each.key is not None}
    left: list[Generation] = []
    counts = dict.fromkeys(keys, 0)
    total = 0
    for each in every:
        key = each.key
        if key is None:
            if keys != {""}:
                continue  # it may be the only one of its step: who looks for it is to hear of it
            key = ""
        count = counts[key]
        fits = not wanted.size or total + each.size <= wanted.size
        if not each.good:
            if wanted.keep and count >= wanted.keep:
                left.append(each)
        elif count == 0 or ((not wanted.keep or count < wanted.keep) and fits):
            counts[key], total = count + 1, total + each.size
        elif Path(os.path.realpath(each.path)) not in keep:
            left.append(each)
    return left


def prune(made: Path, wanted: Wanted) -> list[Path]:
    """Remove older generations of a step behind a new one; return what was removed.

    Raises ImageError where the new one is not whole, and then removes nothing; DirectoryError,
    AccessDenied, Busy.
    """
    latest = check(made)
    older = [path for path in image.generations(made.parent) if int(path.name) < int(made.name)]
    gone = superfluous([latest, *map(look, older)], wanted)
    for each in gone:
        removal.remove(each.path)
    return [each.path for each in gone]
