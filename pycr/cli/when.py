# SPDX-License-Identifier: GPL-2.0-or-later
"""Moments and lengths of time, for people."""

from __future__ import annotations

import time

UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def age(seconds: float) -> str:
    """Return how long ago, in one unit."""
    for unit, length in UNITS[:3]:
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def span(seconds: float) -> str:
    """Return a length of time in its two largest units: "3 h 12 min"."""
    whole = max(0, int(seconds))
    for (unit, length), (smaller, part) in zip(UNITS, UNITS[1:]):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def moment(epoch: float) -> str:
    """Return a moment by this host's clock."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch))
