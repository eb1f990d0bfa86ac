# SPDX-License-Identifier: GPL-2.0-or-later
"""What a job's time went to, life by life: pure logic on its journal and on what Slurm says of it.

    submitted     start   restored      checkpoint, moment          end
        | queued    | restore |  run     |frozen|     run         |
                                                  `- lost, where the next life went on from there

A life is from one start of the job to its end: a requeued job has several, and so has one that was
restarted under another id. Who asks Slurm and finds the journals: history.py. Times are seconds
since the epoch. The journal is its user's own and may hold anything: what makes no sense is passed
over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import NamedTuple

from pycr.journal import Event

QUEUED, RESTORE, RUN, FROZEN, LOST = "queued", "restore", "run", "frozen", "lost"
KINDS = (QUEUED, RESTORE, RUN, FROZEN, LOST)
FRESH = ""  # went on from nothing: began at the beginning
SAME = 2.0  # seconds by which two tell the start of one life differently: Slurm has whole ones
AHEAD = 60.0  # seconds that a node's clock may be before this one's
DONE = "COMPLETED"
GONE = "done"  # a keeper's word: what it looked after is no more, for a reason it does not know


class Known(NamedTuple):
    """What Slurm says of one life of a job. None: not known, or not yet.

    state: Slurm's word. waits: it is in the queue, and `start` is a guess at most.
    """

    job_id: int
    submitted: float | None = None
    start: float | None = None
    end: float | None = None
    state: str = ""
    nodes: str = ""
    waits: bool = False


class Checkpoint(NamedTuple):
    """One command's. moment: when the tasks stood still; frozen: for how long, in seconds.

    paths: its generations, of which steps without a batch script have one each.
    """

    id: str
    moment: float
    time: float
    frozen: float
    size: int
    vacate: bool
    paths: tuple[str, ...]


class Segment(NamedTuple):
    """A piece of a life."""

    kind: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass
class Life:
    """One life of a job. end: now, where it runs. end_known: whether anybody said so.

    source: the path it went on from; FRESH; None where nobody says. assumed: whether it was then
    taken to have begun at the beginning.
    """

    job_id: int
    start: float
    end: float = math.inf
    submitted: float | None = None
    end_known: bool = True
    running: bool = False
    waits: bool = False
    nodes: str = ""
    why: str = ""
    source: str | None = None
    assumed: bool = False
    restored: float | None = None
    checkpoints: list[Checkpoint] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    closed: float | None = None  # when the journal says that it ended
    last_sign: float = 0.0  # the last that the journal has of it


def build(jobs: Sequence[tuple[int, list[Event], list[Known]]], now: float) -> list[Life]:
    """Return the lives of a job, and of those that it goes on from, oldest job first."""
    found: list[Life] = []
    for job_id, events, known in jobs:
        found += _of_job(job_id, _sound(events, now), known, now)
    for life in found:
        _divide(life)
    _queue(found)
    _lose(found)
    return found


def totals(lives: Sequence[Life]) -> dict[str, float]:
    """Return what all that time went to, in seconds, and what was written, in bytes.

    overhead: frozen and restore. unsaved: useful, but since the last checkpoint of a job that has
    not completed.
    """
    made = dict.fromkeys(KINDS, 0.0)
    for life in lives:
        for each in life.segments:
            made[each.kind] += each.seconds
    last = next((life for life in reversed(lives) if not life.waits), None)
    unsaved = 0.0
    if last is not None and last.why != DONE:
        moment = last.checkpoints[-1].moment if last.checkpoints else -math.inf
        unsaved = sum(each.seconds for each in _parts(last, RUN) if each.start >= moment)
    every = [each for life in lives for each in life.checkpoints]
    return {
        "useful": made[RUN],
        "overhead": made[FROZEN] + made[RESTORE],
        "frozen": made[FROZEN],
        "restore": made[RESTORE],
        "lost": made[LOST],
        "queued": made[QUEUED],
        "unsaved": unsaved,
        "checkpoints": len(every),
        "failed": sum(len(life.failures) for life in lives),
        "size": sum(each.size for each in every),
    }


def sources(events: Iterable[Event]) -> list[str]:
    """Return the generations that a job's lives went on from, as its journal has them."""
    found = (each.get(_SOURCE.get(each["event"], "")) for each in events)
    return [path for path in found if isinstance(path, str) and path]


def job_of(path: str) -> int | None:
    """Return the job that a generation is of, by its path (DIR/12.batch/0001)."""
    match = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,9}|batch)", PurePath(path).parent.name)
    return int(match.group(1)) if match else None


_SOURCE = {"life": "generation", "restored": "path"}


def _number(value: object) -> float | None:
    """Return a number, also where it is spelled as text; None where it is none, or odd."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _sound(events: Iterable[Event], now: float) -> list[Event]:
    """Return the events whose times can be, oldest first."""
    kept = []
    for each in events:
        when = _number(each["time"])
        if when is not None and 0 < when <= now + AHEAD:
            kept.append({**each, "time": when})
    return sorted(kept, key=lambda each: float(each["time"]))


def _of_job(job_id: int, events: list[Event], known: list[Known], now: float) -> list[Life]:
    lives: list[Life] = []
    for each in known:
        if each.waits:
            continue
        if each.start is not None and each.start <= now + AHEAD:
            life = _at(lives, job_id, each.start)
            life.submitted = each.submitted if each.submitted is not None else life.submitted
            life.nodes, life.why = each.nodes or life.nodes, each.state or life.why
            life.end = each.end if each.end is not None else now
            life.running = each.end is None
    for event in events:
        start = _number(event.get("since"))
        whole = event["event"] == "began" or str(event.get("step")).endswith(".batch")
        if start and start <= event["time"] + SAME and whole:
            life = _at(lives, job_id, start)
            submitted = _number(event.get("submitted"))
            if life.submitted is None and submitted and submitted <= start:
                life.submitted = submitted
    for event in events:
        _read(lives, job_id, event)
    _end(lives, now)
    for each in known:
        if each.waits:
            lives.append(
                Life(job_id, now, now, each.submitted, waits=True, running=True, why=each.state)
            )
    return lives


def _at(lives: list[Life], job_id: int, start: float) -> Life:
    """Return the life that begins at a time, put among the others if it is new."""
    for life in lives:
        if abs(life.start - start) <= SAME:
            return life
    made = Life(job_id, start)
    lives.append(made)
    lives.sort(key=lambda life: life.start)
    return made


def _read(lives: list[Life], job_id: int, event: Event) -> None:
    """Take in one event, whose life is the one that had begun by then."""
    what, when = event["event"], float(event["time"])
    if what not in ("began", "committed", "failed", "note", "life", "restored", "ended"):
        return
    life = next((each for each in reversed(lives) if each.start - SAME <= when), None)
    begins = what in _SOURCE and life is not None and life.closed is not None
    if life is None or begins:
        # A step that goes on in the allocation in which it was vacated; or nobody knows its start.
        start, since = when, _number(event.get("since"))
        if what == "committed":
            start -= _number(event.get("seconds")) or 0.0
        elif what in _SOURCE and since and (life.start if life else 0.0) < since <= when:
            start = since
        made = _at(lives, job_id, start)
        if life is not None and made is not life:
            made.end, made.running, made.nodes = life.end, life.running, life.nodes
            made.why = life.why if life.running else ""
            life.end, life.running, life.why = math.inf, False, "vacated"
        life = made
    whole = str(event.get("step")).endswith(".batch")
    life.last_sign = max(life.last_sign, when)
    if what == "began":
        life.closed = None  # of two steps only one was vacated
        needs = event.get("needs")
        life.nodes = life.nodes or (",".join(sorted(needs)) if isinstance(needs, dict) else "")
    elif what == "committed":
        _commit(life, event)
    elif what == "failed":
        life.failures.append(str(event.get("message", "")))
    elif what == "note":
        life.notes.append(str(event.get("text", "")))
        if life.source and event.get("aside") == life.source:
            life.source = None  # it could not be restored: the next that is
    elif what == "ended":
        why = str(event.get("why") or "")
        if why != GONE:
            life.closed, life.why = when, why or life.why
        elif whole:  # of its steps one may be gone, and the next begin
            life.closed, life.why = when, life.why or GONE
    else:
        path = event.get(_SOURCE[what])
        if isinstance(path, str) and (not life.source or (what == "restored" and whole)):
            # The first: later steps have checkpoints of their own. But what a keeper was told that
            # the script would go on from may have been set aside.
            life.source = path
        elif what == "life" and life.source is None:
            life.source = FRESH
        # A step's is told when that is known for sure, which may be at its end.
        if what == "restored" and whole:
            life.restored = life.restored or when
        if isinstance(event.get("nodes"), str):
            life.nodes = life.nodes or event["nodes"]


def _commit(life: Life, event: Event) -> None:
    when = float(event["time"])
    moment = max(life.start, when - (_number(event.get("seconds")) or 0.0))
    size, path = _number(event.get("size")), event.get("path")
    made = Checkpoint(
        id=str(event.get("id", "")),
        moment=moment,
        time=when,
        frozen=_number(event.get("frozen")) or 0.0,
        size=int(size or 0),
        vacate=event.get("vacate") is True,
        paths=(path,) if isinstance(path, str) else (),
    )
    before = life.checkpoints[-1] if life.checkpoints else None
    if before is not None and before.id == made.id != "":
        life.checkpoints.pop()
        made = made._replace(
            moment=min(before.moment, made.moment),
            frozen=max(before.frozen, made.frozen),
            size=before.size + made.size,
            paths=(*before.paths, *made.paths),
        )
    life.checkpoints.append(made)
    if made.vacate:
        life.closed = when


def _end(lives: list[Life], now: float) -> None:
    """Find where each life ended: what Slurm says goes before what follows from anything else."""
    for life, after in zip(lives, [*lives[1:], None]):
        if after is not None and life.running:
            life.end, life.running = math.inf, False
        if math.isinf(life.end):
            freed = after.submitted if after is not None else None
            if life.closed is not None:
                life.end = life.closed
                life.why = life.why or ("vacated" if after is None else "requeued")
            elif freed is not None and freed > life.start:
                life.end = freed  # Slurm gives a requeued job a new time of submission
            else:
                life.end, life.end_known = max(life.start, life.last_sign), False
        if after is not None:
            life.end = min(life.end, after.start)
            if life.why in ("", GONE):
                life.why = "requeued"  # by whomever: it was started again
        life.end = max(life.start, min(life.end, now + AHEAD))


def _divide(life: Life) -> None:
    """Divide a life into running, standing still, and being restored."""
    at = life.start
    if life.restored is not None and life.start < life.restored <= life.end:
        life.segments.append(Segment(RESTORE, at, life.restored))
        at = life.restored
    for each in life.checkpoints:
        start = max(at, min(each.moment, life.end))
        # What is vacated does not run again until its end.
        until = life.end if each is life.checkpoints[-1] and each.vacate else start + each.frozen
        end = max(start, min(until, life.end))
        life.segments += [Segment(RUN, at, start), Segment(FROZEN, start, end)]
        at = end
    life.segments.append(Segment(RUN, at, life.end))
    life.segments = [each for each in life.segments if each.seconds > 0]


def _queue(lives: list[Life]) -> None:
    """Put before each life the time in which it waited for Slurm to start it."""
    before: Life | None = None
    for life in lives:
        since = life.submitted
        if before is not None and before.end_known:
            same = before.job_id == life.job_id
            since = max(since or 0.0, before.end) if same or since is not None else None
        if since is not None and since < life.start:
            life.segments.insert(0, Segment(QUEUED, since, life.start))
        before = life


def _lose(lives: list[Life]) -> None:
    """Mark as lost what ran after the moment from which a later life went on."""
    for number, life in enumerate(lives):
        if number == 0 or life.waits:
            continue
        earlier = lives[:number]
        moment = _moment(life, earlier)
        if moment is None:
            continue
        for each in earlier:
            each.segments = [part for whole in each.segments for part in _cut(whole, moment)]


def _moment(life: Life, earlier: Sequence[Life]) -> float | None:
    """Return from which moment a life went on: -inf for the beginning; None where not known."""
    made = [each for before in earlier for each in before.checkpoints]
    if life.source is None:
        # What restores says so in the journal; only `pycr requeue` and `restart` need not.
        life.assumed = not (made and made[-1].vacate)
        return -math.inf if life.assumed else made[-1].moment
    if life.source == FRESH:
        return -math.inf
    name = PurePath(life.source).parts[-2:]
    for each in reversed(made):
        if any(PurePath(path).parts[-2:] == name for path in each.paths):
            return each.moment
    return None


def _cut(whole: Segment, moment: float) -> list[Segment]:
    if whole.kind != RUN or whole.end <= moment:
        return [whole]
    if whole.start >= moment:
        return [whole._replace(kind=LOST)]
    return [whole._replace(end=moment), Segment(LOST, moment, whole.end)]


def _parts(life: Life, kind: str) -> list[Segment]:
    return [each for each in life.segments if each.kind == kind]
