# SPDX-License-Identifier: GPL-2.0-or-later
"""What a requeued job goes on from: the newest generation of a step, or of its script, that is
whole; those that fail are set aside, and the one before is tried.

    step     srun_cr: Steps.next() -> srun with its pods -> 125 and .failed-JOB.STEP? -> set aside
    script   its pod: of_script(), all checksums compared -> restored, or set aside and requeued

Generations are looked for where the job's journal says that they were committed, and in the job's
image directories. Everything set aside is a line in the journal too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pycr import config, identity
from pycr.coordinator import record
from pycr.errors import GeometryError, ImageError, PycrError, RestoreFailed
from pycr.images import image
from pycr.images.manifest import Manifest
from pycr.images.requeue import forget_requeue
from pycr.journal import FIRST, Event, Journal, begin
from pycr.slurm import BATCH, preemption

FRESH = "fresh"  # --cr-fallback
WISH = "SLURM_CHECKPOINT_IMAGE_DIR"
GEOMETRY = "geometry: "  # heads the reason where a generation is no worse for it
SKEW = 300.0  # seconds by which the clocks of nodes may differ
FAILURES = (ImageError, RestoreFailed, GeometryError)  # a restore's: what else fails is the node's


def journal_of(job_id: int) -> Journal | None:
    """Return a job's journal, None where it cannot be known. Raises SlurmError."""
    return record.of_job(config.site(), job_id)


def note(journal: Journal | None, event: str, **values: object) -> None:
    """Write a line of the journal; that it cannot be is no reason to fail."""
    if journal is not None:
        with suppress(PycrError):
            journal.append(event, **values)


def in_vain(events: list[Event], key: str) -> bool:
    """Tell whether a step (key) or a script ("batch") has begun anew before, and since then nothing
    could be restored: it would do so for ever."""
    for event in reversed(events):
        if event["event"] == "restored":
            with suppress(ValueError):  # no path
                if not image.aside(Path(str(event.get("path")))):
                    return False
        if event["event"] == "note" and event.get("anew") == key:
            return True
    return False


class Found(NamedTuple):
    """A generation. manifest: None where it cannot be read, for the reason `why`."""

    path: Path
    manifest: Manifest | None
    key: str
    why: str = ""

    @property
    def created(self) -> float:
        """When it was made, by its manifest, or else its directory, in seconds."""
        if self.manifest is not None:
            return self.manifest.created
        with suppress(OSError):
            return self.path.stat().st_mtime
        return 0.0


def _committed(job_id: int, events: list[Event]) -> dict[str, tuple[Path, str]]:
    """Return the generations of which a journal knows, with their keys, by their real paths."""
    found = {}
    for event in events:
        if event["event"] == "committed" and isinstance(event.get("path"), str):
            path = Path(event["path"])
            if path.parent.name.split(".")[0] == str(job_id) and path.is_dir():
                found[os.path.realpath(path)] = path, str(event.get("key") or "")
    return found


def generations(job_id: int, places: list[Path], every: list[Event]) -> list[Found]:
    """Return a job's generations, the newest first, those that were set aside among them; not
    those of an earlier job that had its number.

    every: the lines of its journal, those of earlier jobs too.
    """
    first = begin(every)
    own = _committed(job_id, every[first:])
    earlier = _committed(job_id, every[:first])
    paths = {real: path for real, (path, _) in own.items()}
    for place in dict.fromkeys(places):
        for step in image.steps(place):
            if step.name.split(".")[0] == str(job_id):
                for path in image.generations(step):
                    paths.setdefault(os.path.realpath(path), path.absolute())
    started = every[first]["time"] - SKEW if every and every[first]["event"] == FIRST else 0.0
    found = [_load(paths[real], key) for real, (_, key) in own.items()]
    others = [paths[real] for real in paths.keys() - own.keys() - earlier.keys()]
    found += [each for each in (_load(path, "") for path in others) if each.created >= started]
    return sorted(found, key=lambda each: each.created, reverse=True)


def _load(path: Path, key: str) -> Found:
    try:
        manifest = image.load(path)
    except PycrError as error:
        return Found(path, None, key, str(error))
    return Found(path, manifest, manifest.key)


def places(job_id: int, named: str) -> list[Path]:
    """Return the image directories of a job: those that are named, and the default.

    Raises SlurmError.
    """
    wishes = [named, os.environ.get("SLURM_CHECKPOINT_DIR", ""), os.environ.get(WISH, "")]
    found = [Path(each).absolute() for each in wishes if each]
    with suppress(PycrError):
        found.append(config.default_dir(config.site(), job_id))
    return found


class Steps:
    """The generations of one step of a script, for its srun_cr in a requeued job."""

    def __init__(self, job_id: int, key: str, named: str) -> None:
        """key: which step (identity.py). named: its --checkpoint-dir. Raises PycrError."""
        self.key, self.journal = key, journal_of(job_id)
        every = self.journal.every() if self.journal is not None else []
        self.events = every[begin(every) :]
        batch = image.step_name(job_id, BATCH)
        made = generations(job_id, places(job_id, named), every)
        steps = [each for each in made if each.path.parent.name != batch]
        self._found = [each for each in steps if each.key == key]
        if not self._found:  # those of which nobody can say whose they are may be
            self._found = [each for each in steps if each.manifest is None and not each.key]
        self._others = {each.key: each.path for each in reversed(steps) if each.key}
        self._whole = [each.path for each in made if each.path.parent.name == batch]
        self.had = len(self._found)
        self.told: list[str] = []  # what was set aside just now, for the user

    def done(self) -> bool:
        """Tell whether the step had ended with 0 in an earlier life (--cr-skip-done)."""
        return any(each["event"] == "done" and each.get("key") == self.key for each in self.events)

    def unclaimed(self, claimed: set[str]) -> Path | None:
        """Return a generation of a step that has not begun in this life, None where there is none.

        claimed: the keys of those that have.
        """
        return next((path for key, path in self._others.items() if key not in claimed), None)

    def in_whole(self) -> Path | None:
        """Return a checkpoint of the whole job that the step is in, None where there is none, or
        where the job would have gone on from it, and has said why it does not."""
        if identity.GOES_ON in os.environ:
            return None
        for path in self._whole:
            with suppress(PycrError):
                if any(each.key == self.key for each in image.load_all(path)[1:]):
                    return path
        return None

    def next(self) -> Path | None:
        """Return the next generation to try, presence and size of its files looked at."""
        while self._found:
            each = self._found.pop(0)
            if image.aside(each.path):
                continue
            try:
                if each.manifest is None:
                    raise ImageError(each.why)
                for task in each.manifest.tasks:
                    os.close(image.check_task(each.path, task))
            except PycrError as error:
                self.set_aside(each.path, str(error))
                continue
            return each.path
        return None

    def failed(self, path: Path, step: str, attempt: str) -> bool:
        """Tell whether a generation failed to be restored, as a step; set it aside if so.

        Its pods leave a file to say so: 125 alone may be the task's own status. attempt: as they
        were told.
        """
        marker = path.parent / image.failed_name(step, attempt)
        try:
            with os.fdopen(image.open_regular(marker), "rb") as file:
                reason = file.read(image.MAX_REASON).decode(errors="replace").strip()
            marker.unlink()
        except OSError:
            return False
        if reason.startswith(GEOMETRY):
            self.told.append(f"{path}: {reason[len(GEOMETRY) :]}")
        else:
            self.set_aside(path, reason)
        return True

    def set_aside(self, path: Path, reason: str) -> None:
        """Do it, and keep what is to be said of it."""
        text = f"{path} is set aside: {reason}"
        try:
            image.set_aside(path, reason)
        except PycrError as error:
            text = f"{path} cannot be restored: {reason}; nor set aside: {error}"
        self.told.append(text)
        note(self.journal, "note", step=path.parent.name, text=text, aside=str(path))


def say_failed(generation: Path, step: str, attempt: str, error: BaseException, where: str) -> None:
    """Leave why a task could not be restored to the srun_cr that tries generations in turn.

    attempt: as that one calls it. where: names the task. What is not the generation's fault is not
    said: the next one would fare no better.
    """
    if not isinstance(error, FAILURES) or not re.fullmatch("[0-9a-f]{1,16}", attempt):
        return
    text = f"{GEOMETRY}{error}" if isinstance(error, GeometryError) else f"{where}: {error}"
    with suppress(OSError):  # another task was first, or nothing can be written there
        path = generation.parent / image.failed_name(step, attempt)
        with os.fdopen(image.create(path), "w", errors="replace") as file:
            file.write(text[: image.MAX_REASON // 4])


def verify(generation: Path) -> None:
    """Compare all of a generation with its manifests: a script's, and its steps' beside it.

    All of it is read. Raises ImageError, AccessDenied.
    """
    for each in image.load_all(image.resolve(generation)):
        inside = each.step_id != BATCH
        place = generation / image.step_name(each.job_id, each.step_id) if inside else generation
        for task in each.tasks:
            directory = image.check_task(place, task)
            try:
                image.check_sums(directory, place / image.task_name(task.task_id), task)
            finally:
                os.close(directory)


class Script:
    """The generations of a job's batch script, in its pod."""

    def __init__(self, job_id: int, named: Path, variables: dict[str, str]) -> None:
        """named: by the requeue file. variables: Slurm's, of this start. Raises SlurmError."""
        self.job_id, self.named, self.variables = job_id, named, variables
        self.name = image.step_name(job_id, BATCH)
        self.journal = journal_of(job_id)

    def every(self) -> list[Event]:
        """Return what the journal has; one that cannot be read has nothing."""
        with suppress(PycrError):
            return self.journal.every() if self.journal is not None else []
        return []

    def _candidates(self) -> Iterator[Path]:
        yield self.named
        place = self.named.parent.parent
        for each in generations(self.job_id, [place], self.every()):
            same = os.path.realpath(each.path) == os.path.realpath(self.named)
            if each.path.parent.name == self.name and not same:
                yield each.path

    def choose(self) -> Path:
        """Return the newest generation that verifies; set aside those that do not.

        Raises ImageError, RestoreFailed where none does: why the last one did not.
        """
        last: PycrError = RestoreFailed(f"{self.named}: it is no more")
        for path in self._candidates():
            why = image.aside(path)
            if why:
                last = ImageError(f"{path}: it was set aside: {why}")
                continue
            try:
                verify(path)
            except PycrError as error:
                last = error
                self.set_aside(path, str(error))
            else:
                return path
        raise last

    def set_aside(self, path: Path, reason: str) -> bool:
        """Set aside a generation of this job; tell whether it is one, and was."""
        if path.parent.name != self.name or not path.is_dir():
            return False
        try:
            image.set_aside(path, reason)
        except PycrError:
            return False
        text = f"{path} is set aside: {reason}"
        note(self.journal, "note", step=self.name, text=text, aside=str(path))
        return True

    def after(self, path: Path | None, error: BaseException) -> str:
        """See to what comes after a failed restore; return what to say of it, "" for nothing.

        path: what was tried, None where nothing was left to try. The job goes back to the queue,
        to begin with the next generation or, where the user wants that, with its script.
        """
        if not isinstance(error, FAILURES):
            return ""  # the node's fault: no generation would fare better here
        if path is not None:
            if not self.set_aside(path, str(error)):
                return ""
            with suppress(PycrError):
                before = self.choose()
                return self.requeue(f"set aside; the job is requeued to go on from {before}")
        if self.variables.get("SLURM_CR_FALLBACK") != FRESH:
            text = "no checkpoint is left to go on from, and the job is not started afresh"
            return f"{text} (--cr-fallback=fail)"
        every = self.every()
        if in_vain(every[begin(every) :], "batch"):
            return "no checkpoint is left, as after the script began anew: it does not once more"
        home = self.variables.get(WISH, "")
        try:
            forget_requeue(
                Path(home) if home else config.default_dir(config.site(), self.job_id), self.job_id
            )
        except PycrError as failure:
            return f"no checkpoint is left, and the job cannot begin anew: {failure}"
        return self.requeue(
            "no checkpoint is left; the job is requeued to begin anew", anew="batch"
        )

    def requeue(self, text: str, **more: str) -> str:
        """Put the job back into the queue; return what to say."""
        try:
            preemption.requeue(self.job_id)
        except PycrError as error:
            text = f"{text}, which failed: {error}"
        note(self.journal, "note", step=self.name, text=text, **more)
        return text

    def restored(self, path: Path) -> None:
        """Note that the job goes on."""
        note(self.journal, "restored", step=self.name, path=str(path))
