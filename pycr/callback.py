# SPDX-License-Identifier: GPL-2.0-or-later
"""For programs: be asked before a checkpoint, and told after it or after a restart.

    import pycr
    pycr.on_checkpoint(before=disconnect, after=connect, restarted=lambda env: connect())
    with pycr.critical_section():
        ...                       # no checkpoint is taken in here

The functions run in a thread of pycr's own, which does nothing else and holds no lock of the
program's. How it is asked is mailbox.py's to say.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pycr.mailbox import Mailbox, Silence, apply_environment


class TryLater(Exception):
    """Raised by a `before` function: not now, but soon. pycr asks again until its --max-wait."""


class Callbacks(NamedTuple):
    """What on_checkpoint() was given."""

    before: Callable[[], Any] | None
    after: Callable[[], Any] | None
    restarted: Callable[[dict[str, str]], Any] | None


_registered: list[Callbacks] = []
_lock = threading.Lock()  # for _registered and _thread
_critical = threading.RLock()  # held in a critical section, and while a checkpoint is under way
_thread: threading.Thread | None = None
_owner = 0


def on_checkpoint(
    before: Callable[[], Any] | None = None,
    after: Callable[[], Any] | None = None,
    restarted: Callable[[dict[str, str]], Any] | None = None,
) -> Callable[[], None]:
    """Register functions to be called around each checkpoint of this process; return one that
    takes them back.

    before: called before the process is stopped. If it raises TryLater, pycr asks again; if it
        raises anything else, no checkpoint is made and the message is told to who asked for it.
    after: called when the process goes on, whether a checkpoint was made or not.
    restarted: called in place of `after` in a process that was restored from a checkpoint, with the
        environment of the job that it is now in (os.environ is already brought up to date).

    Several registrations are called in order before, and in reverse order after. Raises OSError
    where the mailbox cannot be made.
    """
    entry = Callbacks(before, after, restarted)
    with _lock:
        _start()
        _registered.append(entry)

    def unregister() -> None:
        with _lock:
            if entry in _registered:
                _registered.remove(entry)

    return unregister


@contextmanager
def critical_section() -> Iterator[None]:
    """Hold off any checkpoint of this process while the block runs; it may be nested.

    One that is asked for meanwhile waits, up to its --max-wait. A section entered while one is
    under way waits until that is over. Only the thread that holds the section may leave it.
    """
    with _lock:
        _start()
    with _critical:
        yield


def _start() -> None:
    """Start the thread, once in each process: a child of fork(2) has none."""
    global _thread, _owner
    if _thread is None or _owner != os.getpid():
        mailbox = Mailbox("program")
        _owner = os.getpid()
        _thread = threading.Thread(target=_serve, args=(mailbox,), name="pycr", daemon=True)
        _thread.start()


def _forked() -> None:
    """Replace, in a child of fork(2), a lock held by a thread that the child does not have."""
    global _lock, _critical
    _lock = threading.Lock()
    if _critical.acquire(blocking=False):  # free, or this thread's own
        _critical.release()
    else:
        _critical = threading.RLock()


os.register_at_fork(after_in_child=_forked)


def _serve(mailbox: Mailbox) -> None:
    while True:
        message = mailbox.next(None)
        if message is not None and message.get("do") == "checkpoint":
            with _critical:
                _checkpoint(mailbox, message)


def _checkpoint(mailbox: Mailbox, question: dict[str, Any]) -> None:
    """Answer a question, and wait for what becomes of it."""
    with _lock:
        registered = list(_registered)
    done: list[Callbacks] = []
    try:
        for entry in registered:
            if entry.before is not None:
                entry.before()
            done.append(entry)
    except TryLater as error:
        mailbox.answer(question, "later", reason=str(error) or "it asks for a moment")
        _after(done)
        return
    except Exception as error:
        mailbox.answer(question, "cannot", reason=f"{type(error).__name__}: {error}")
        _after(done)
        return
    mailbox.answer(question, "ready")
    silence = Silence(mailbox)
    while True:
        message = mailbox.next(1000)
        if message is None:
            if silence.over():
                break
            continue
        silence.heard()
        if message.get("do") == "checkpoint":
            mailbox.answer(message, "ready")  # asked again: the first attempt came to nothing
        elif message.get("do") == "go on":
            break
        elif message.get("do") == "restarted":
            mailbox.renew()
            _restarted(done, message)
            return
    _after(done)


def _after(entries: list[Callbacks]) -> None:
    for entry in reversed(entries):
        if entry.after is not None:
            _call(entry.after)


def _restarted(entries: list[Callbacks], message: dict[str, Any]) -> None:
    apply_environment(message.get("environment", {}))
    for entry in reversed(entries):
        if entry.restarted is not None:
            _call(entry.restarted, dict(os.environ))


def _call(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function of the program's; one that raises must not keep the others from theirs."""
    try:
        function(*arguments)
    except Exception:
        sys.excepthook(*sys.exc_info())
