# SPDX-License-Identifier: GPL-2.0-or-later
"""When the next checkpoint is due: arithmetic alone. All is in seconds; nothing is asked here.

    start ---- tick ---- tick ---- tick ...  end - margin |== retries ==| end

A periodic checkpoint is due at start + k * interval, so that the time it takes moves no later one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

TENTH = 10.0  # a checkpoint is under way for this part of the time at most, where it is chosen here
ATTEMPTS = 2  # for which the default margin has time
CAUTION = 1.5  # times as long as the longest one lately; others write then too
LATELY = 5  # checkpoints
FLOOR = (
    60.0  # seconds of the margin that are no checkpoint's: Slurm's own, its files' and its nodes'
)
SHARE = 0.1  # and of the time limit, where that is less
MOST = 0.5  # share of the time limit that a margin takes: half of each life gets on with the work
STARTUP = 2.0  # seconds of a checkpoint before its first task is frozen
POLL, SOONEST = 60.0, 2.0  # seconds between two looks at the job, at most and at least
LOOKS = 6  # at the job in the time that it is given when it is preempted
SOONER = 15.0  # seconds after which a periodic one that failed is made again; then twice that
AGAIN = 4  # attempts at least that what is left has place for the pauses of
CHANGED = 1.5  # times as long or as short a cost that has an interval chosen anew


def next_tick(start: float, interval: float, now: float) -> float:
    """Return the first start + k * interval after now, k being 1 or more."""
    return start + max(1, math.floor((now - start) / interval) + 1) * interval


def tick_after(start: float, interval: float, now: float, failures: int) -> float:
    """Return when the next one is due after so many in a row that have failed: an interval would be
    long to wait where what failed was Slurm that was away, or a file system that was full."""
    sooner = SOONER * (1 << min(failures - 1, 16)) if failures else float("inf")
    return min(now + sooner, next_tick(start, interval, now))


def missed(start: float, interval: float, since: float, now: float) -> int:
    """Return how many ticks were after since and are over by now."""
    return max(
        0, round((next_tick(start, interval, now) - next_tick(start, interval, since)) / interval)
    )


def expected(took: Sequence[float], guess: float) -> float:
    """Return how long a checkpoint will take, by those before it, the last ones; or by a guess."""
    lately = list(took)[-LATELY:]
    return (max(lately) if lately else guess) + STARTUP


def margin(duration: float, slot: float, wanted: float = 0.0, ahead: float = 0.0) -> float:
    """Return how long before the job's end the last checkpoint is begun.

    duration: of a checkpoint, as expected(). slot: from the job's start to its end; inf where it
    has none. wanted: as the user said. ahead: of the end, something else of the job's begins.
    """
    own = wanted or duration * CAUTION * ATTEMPTS + min(FLOOR, slot * SHARE)
    return min(own + ahead, slot * MOST)


def poll_in(now: float, due: float, grace: float) -> float:
    """Return when to look at the job again: its end may have moved.

    due: when something is to be done. grace: what it gets when it is preempted, 0 where it cannot
    be.
    """
    often = min(POLL, grace / LOOKS) if grace else POLL
    # Half of what is left: a limit that is cut is seen in time, and none is asked for the end.
    return max(SOONEST, min(often, (due - now) / 2))


def retry_in(attempt: int, left: float) -> float:
    """Return how long to wait after the attempt-th checkpoint that failed, from 1."""
    return max(1.0, min(left / AGAIN, float(1 << min(attempt - 1, 16))))


def worth_trying(left: float, duration: float) -> bool:
    """Tell whether a checkpoint begun now may be over before the end."""
    return left > duration / CAUTION


def daly(cost: float, mtbf: float) -> float:
    """Return the interval at which checkpoints and repeated work cost least together.

    cost: of a checkpoint. mtbf: mean time between failures of the job. Daly's higher-order estimate
    (FGCS 22, 2006) of Young's sqrt(2 * cost * mtbf).
    """
    if cost >= 2 * mtbf:
        return mtbf
    ratio = cost / (2 * mtbf)
    return math.sqrt(2 * cost * mtbf) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost


def interval(frozen: float, total: float, mtbf: float, least: float) -> float:
    """Return the interval to choose, in whole seconds. least: the site's.

    frozen: how long the tasks stand still. total: how long it takes, from one end to the other.
    """
    return float(math.ceil(max(daly(frozen, mtbf), total * TENTH, least)))


def has_changed(cost: float, chosen_for: float) -> bool:
    """Tell whether a cost is another one than that an interval was chosen for."""
    return not chosen_for / CHANGED <= cost <= chosen_for * CHANGED


def spell(seconds: float) -> str:
    """Return a time as a user reads it: 90 s, 45 min, 1 h 30 min, 12 days."""
    if seconds < 120:
        return (
            f"{seconds:.0f} s" if seconds >= 10 or seconds == int(seconds) else f"{seconds:.1f} s"
        )
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{round(hours / 24)} days"
