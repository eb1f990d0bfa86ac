# SPDX-License-Identifier: GPL-2.0-or-later
"""Ctrl-C, SIGTERM and SIGHUP: a command gives up in order, until what it does is done.

    catch() ---- KeyboardInterrupt, once, wherever it is ---- too_late() ---- noted, and no more

A checkpoint that is committed cannot be given up: the command says that it was made. Nor does a
second one, of an impatient user's, leave half done what the first gives up.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_late = False
_noted = False


def catch() -> None:
    """Have the three raise KeyboardInterrupt; not SIGINT and SIGHUP where a shell's `&` or nohup
    has them ignored."""
    for signo in SIGNALS:
        if signo == signal.SIGTERM or signal.getsignal(signo) != signal.SIG_IGN:
            signal.signal(signo, _come)


def _come(signo: int, frame: FrameType | None) -> None:
    global _late, _noted
    if not _late:
        _late = True  # one is enough: what gives up for it does so undisturbed
        raise KeyboardInterrupt
    _noted = True


def too_late() -> None:
    """Only note them from now on."""
    global _late
    _late = True


@contextmanager
def put_off() -> Iterator[None]:
    """Have one come when this is done: what it has made is known then, and can be undone."""
    global _late
    before, _late = _late, True
    try:
        yield
    finally:
        _late = before
        if _noted and not before:
            _late = True
            raise KeyboardInterrupt


def over() -> None:
    """Ignore them: the command's status stands, and Python would end by them on its last way."""
    for signo in SIGNALS:
        signal.signal(signo, signal.SIG_IGN)


@contextmanager
def heard() -> Iterator[None]:
    """Have them raise KeyboardInterrupt all the same: to end a wait that changes nothing more."""
    global _late
    before, _late = _late, False
    try:
        if before and _noted:
            raise KeyboardInterrupt
        yield
    finally:
        _late = before
