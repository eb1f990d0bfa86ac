# SPDX-License-Identifier: GPL-2.0-or-later
"""A report as JSON, and back: so that one can be drawn on another machine, or kept.

What is read back is a file of anybody's: each value is looked at.
"""

from __future__ import annotations

import json
from typing import Any

from pycr.errors import UsageError
from pycr.report import account
from pycr.report.account import Checkpoint, Life, Segment
from pycr.report.history import Report

LONGEST = 16 << 20  # bytes


def dump(made: Report) -> str:
    """Return a report as JSON."""
    value = {
        "job": made.job_id,
        "name": made.name,
        "user": made.user,
        "now": made.now,
        "lives": [_life(each) for each in made.lives],
        "totals": account.totals(made.lives),
    }
    return json.dumps(value, indent=1)


def _life(life: Life) -> dict[str, Any]:
    return {
        "job": life.job_id,
        "submitted": life.submitted,
        "start": None if life.waits else life.start,
        "end": None if life.running else life.end,
        "end_known": life.end_known,
        "nodes": life.nodes,
        "why": life.why,
        "from": life.source,
        "assumed": life.assumed,
        "checkpoints": [each._asdict() for each in life.checkpoints],
        "failures": life.failures,
        "notes": life.notes,
        "segments": [each._asdict() for each in life.segments],
    }


def load(data: bytes, where: str) -> Report:
    """Return the report that dump() printed. Raises UsageError."""
    try:
        value = json.loads(data)
        now = _float(value["now"])
        lives = [_read(each, now) for each in value["lives"]]
        return Report(_int(value["job"]), str(value["name"]), str(value["user"]), now, lives)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{where}: not what pycr report --json prints: {error}") from error


def _read(value: dict[str, Any], now: float) -> Life:
    start = _float(now if value["start"] is None else value["start"])
    return Life(
        job_id=_int(value["job"]),
        start=start,
        end=_float(now if value["end"] is None else value["end"]),
        submitted=None if value["submitted"] is None else _float(value["submitted"]),
        end_known=value["end_known"] is True,
        running=value["end"] is None,
        waits=value["start"] is None,
        nodes=str(value["nodes"]),
        why=str(value["why"]),
        source=None if value["from"] is None else str(value["from"]),
        assumed=value["assumed"] is True,
        checkpoints=[
            Checkpoint(
                id=str(each["id"]),
                moment=_float(each["moment"]),
                time=_float(each["time"]),
                frozen=_float(each["frozen"]),
                size=_int(each["size"]),
                vacate=each["vacate"] is True,
                paths=tuple(str(path) for path in each["paths"]),
            )
            for each in value["checkpoints"]
        ],
        failures=[str(each) for each in value["failures"]],
        notes=[str(each) for each in value["notes"]],
        segments=[_segment(each) for each in value["segments"]],
    )


def _segment(value: dict[str, Any]) -> Segment:
    made = Segment(str(value["kind"]), _float(value["start"]), _float(value["end"]))
    if made.kind not in account.KINDS or made.end < made.start:
        raise ValueError("a segment")
    return made


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e11:
        raise ValueError("a time")
    return float(value)


def _int(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise ValueError("a number")
    return value
