# SPDX-License-Identifier: GPL-2.0-or-later
"""A report for a terminal: a line a life with a bar of characters, then the totals.

1  4711  n0   ····####|####|##xxx            12 min  NODE_FAIL
2  4711  n1                   ···++####|###   9 min  runs
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from pycr.errors import printable
from pycr.report import account
from pycr.report.account import FROZEN, LOST, QUEUED, RESTORE, RUN, Life
from pycr.report.history import Report

# What is narrower than a character counts for its whole, in this order of weight: a stop of a tenth
# of a second in a day is what one looks for.
ORDER = (FROZEN, RESTORE, LOST, RUN, QUEUED)
UNICODE = {QUEUED: "·", RESTORE: "▒", RUN: "█", FROZEN: "│", LOST: "░"}
ASCII = {QUEUED: ".", RESTORE: "+", RUN: "#", FROZEN: "|", LOST: "x"}
LEAST_BAR, NARROWEST = 10, 30
MOST_REMARKS = 20
UNITS = (("d", 86400), ("h", 3600), ("min", 60))
MEANING = {QUEUED: "queued", RESTORE: "restored", RUN: "run", FROZEN: "frozen", LOST: "lost"}


def duration(seconds: float) -> str:
    """Return a time for people: "0.12 s", "48 s", "12 min 5 s", "3 h 20 min", "2 d 3 h"."""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds else "0 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for (unit, length), (less, short) in zip(UNITS, (*UNITS[1:], ("s", 1))):
        if whole >= length:
            rest = whole % length // short
            return f"{whole // length} {unit}" + (f" {rest} {less}" if rest else "")
    raise AssertionError(seconds)


def size(number: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def span(lives: Sequence[Life]) -> tuple[float, float]:
    """Return when the first of it began, and the last ended."""
    times = [edge for life in lives for each in life.segments for edge in (each.start, each.end)]
    times += [life.start for life in lives]
    return min(times), max(*times, min(times) + 1.0)


def lines(made: Report, columns: int, unicode: bool) -> list[str]:
    """Return the report as lines of no more than so many columns."""
    columns = max(columns, NARROWEST)
    signs = UNICODE if unicode else ASCII
    head = [(str(number), str(life.job_id), printable(life.nodes) or "-")
            for number, life in enumerate(made.lives, 1)]  # fmt: skip
    tail = [(duration(_lasted(life)), state(life)) for life in made.lives]
    first = _aligned(head)
    last = _aligned(tail)
    width = columns - len(first[0]) - len(last[0]) - 4
    if width < LEAST_BAR:  # without the nodes, and then without what it ended of
        first = _aligned([row[:2] for row in head])
        width = columns - len(first[0]) - len(last[0]) - 4
    if width < LEAST_BAR:
        last = _aligned([row[:1] for row in tail])
        width = max(LEAST_BAR, columns - len(first[0]) - len(last[0]) - 4)
    began, ended = span(made.lives)
    out = [f"job {made.job_id} ({printable(made.name)}), {made.user}: {summary(made)}"]
    for label, life, end in zip(first, made.lives, last):
        out.append(f"{label}  {bar(life, began, ended, width, signs)}  {end}")
    out.append("   ".join(f"{signs[kind]} {MEANING[kind]}" for kind in account.KINDS))
    out += [f"{name:<9} {text}" for name, text in accounts(made)]
    out += [f"note: {printable(text)}" for text in remarks(made.lives)]
    return [part for line in out for part in _wrapped(line, columns)]


def bar(life: Life, began: float, ended: float, width: int, signs: dict[str, str]) -> str:
    """Return a life as characters, of a time that is so many characters wide."""
    cells = [" "] * width
    scale = width / (ended - began)
    for kind in reversed(ORDER):
        for each in life.segments:
            if each.kind == kind:
                start = min(width - 1, int((each.start - began) * scale))
                end = max(start + 1, min(width, round((each.end - began) * scale)))
                cells[start:end] = signs[kind] * (end - start)
    return "".join(cells)


def summary(made: Report) -> str:
    """Return how many lives, over how long."""
    began, ended = span(made.lives)
    number = len(made.lives)
    return f"{number} {'life' if number == 1 else 'lives'} in {duration(ended - began)}"


def accounts(made: Report) -> list[tuple[str, str]]:
    """Return the totals, each with its name."""
    found = account.totals(made.lives)
    whole = found["useful"] + found["overhead"] + found["lost"]

    def share(name: str) -> str:
        part = f" ({100 * found[name] / whole:.1f} %)" if whole else ""
        return duration(found[name]) + part

    number, failed = int(found["checkpoints"]), int(found["failed"])
    every = f"{number} checkpoint{'' if number == 1 else 's'}"
    useful = share("useful")
    if found["unsaved"]:
        useful += f", {duration(found['unsaved'])} of it since the last checkpoint"
    frozen, restore = duration(found["frozen"]), duration(found["restore"])
    return [
        ("useful", useful),
        ("overhead", f"{share('overhead')}: frozen {frozen}, restored {restore}"),
        ("lost", share("lost")),
        ("queued", duration(found["queued"])),
        ("written", f"{every}, {size(found['size'])}" + (f"; {failed} failed" if failed else "")),
    ]


def remarks(lives: Sequence[Life]) -> list[str]:
    """Return what a reader must know of how sure these figures are, and what the lives noted."""
    out = []
    for number, life in enumerate(lives, 1):
        if not life.end_known:
            out.append(f"life {number}: nobody says when it ended: taken for its last sign of life")
        if life.assumed:
            out.append(f"life {number}: nothing says what it went on from: taken for a new start")
        out += [f"life {number}: {text}" for text in life.notes]
        out += [f"life {number}: a checkpoint failed: {text}" for text in life.failures[-1:]]
    return out[-MOST_REMARKS:]


def state(life: Life) -> str:
    """Return what became of a life."""
    if life.waits:
        return "queued"
    return "runs" if life.running else printable(life.why) or "ended"


def _wrapped(line: str, columns: int) -> list[str]:
    """Break a line of words; what goes on stands below what is said of."""
    if len(line.rstrip()) <= columns:
        return [line.rstrip()]
    return textwrap.wrap(line, columns, subsequent_indent=" " * 10, drop_whitespace=True)


def _lasted(life: Life) -> float:
    return sum(each.seconds for each in life.segments if each.kind != QUEUED)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
