# SPDX-License-Identifier: GPL-2.0-or-later
"""What must be true: of pycr's exit status and words, and of what a victim has written."""

from __future__ import annotations

import re
import signal

from tests.faults.victims import Victim, Wrong, read_lives

EARLY = (-signal.SIGINT, -signal.SIGTERM)  # before main(): it is Python that dies of it
BUSY = 13
ENDED = (5, 9, 14)  # what a checkpoint may say of a victim that another's vacate is ending


def one(status: int, words: str, new: list[str], removed: bool) -> list[str]:
    """Return what is wrong with a pycr that ended so, and the generations that are new.

    removed: whether the fault was that they were removed.
    """
    problems = []
    if len(new) > 1:
        problems.append(f"one checkpoint has made {new}")
    if status == 0:
        if not new and not removed:
            problems.append("pycr ended with 0 and made nothing")
    elif new and status != -signal.SIGKILL and "checkpointed" not in words:
        problems.append(f"pycr ended with {status} and made {new}: {words}")
    return problems + _said(status, words)


def two(
    status: int, words: str, second: int, second_words: str, new: list[str], vacate: bool
) -> list[str]:
    """Return what is wrong with two at once: one is made, or both, one after the other.

    second: of the second one, which is a create. vacate: whether the first is a vacate.
    """
    problems = _said(status, words) + _said(second, second_words)
    for each in (status, second):
        if each not in (0, BUSY, *(ENDED if vacate else ())):
            problems.append(f"one of two at once ended with {each}: {words}; {second_words}")
    if len(new) != (status, second).count(0):
        problems.append(f"two at once ended with {status} and {second}, and made {new}")
    if not new:
        problems.append(f"neither of two at once was made: {words}; {second_words}")
    return problems


def _said(status: int, words: str) -> list[str]:
    """Return what is wrong with what it said: one line where it failed, and no traceback ever."""
    lines = [line for line in words.splitlines() if not line.startswith("pycr: warning: ")]
    if status in EARLY:
        good = ", in main" not in words
    elif status in (0, -signal.SIGKILL):
        good = not lines
    else:
        good = len(lines) == 1 and lines[0].startswith("pycr: ") and "fault of" not in words
    return [] if good else [f"pycr ended with {status} and said {words!r}"]


def lives(victim: Victim, whole: bool) -> float:
    """Hold what a victim has written against the truth; return its longest stop in seconds.

    whole: it came to its end. Raises Wrong.
    """
    if len(list(read_lives(victim.text()))) > victim.lives:
        raise Wrong("it has repeated itself")
    pause = 0.0
    for task, text in enumerate(victim.files()):
        own = list(read_lives(text))
        if len(own) > victim.lives:
            raise Wrong(f"task {task} has repeated itself in its file")
        if whole and str(task) not in own[-1].ended:
            raise Wrong(f"task {task} has not come to its end")
        pause = max(pause, own[-1].pause)
    return pause


def restarted(
    victim: Victim,
    before: str,
    said: str,
    restarts: int,
    window: tuple[list[int], list[int]],
) -> None:
    """See that a restarted life begins where its checkpoint was, and comes to its end.

    before: what was written until then. restarts: how many there were since the victim's end.
    window: what each task had come to before and after the checkpoint. Raises Wrong.
    """
    if len(list(read_lives(before + said))) > victim.lives + restarts:
        raise Wrong("the restart has repeated itself")
    first: dict[str, int] = {}
    for writer, number in re.findall(r"^(\d+|S) (\d+)\b", said, re.M):
        first.setdefault(writer, int(number))
    ended = set(re.findall(r"^(\d+) end ", said, re.M))
    tasks = [str(task) for task in range(victim.shape.tasks)]
    if not set(tasks) <= set(first) or ended != set(tasks):
        raise Wrong(
            f"the restart heard {sorted(first)} of {tasks}, and the ends of {sorted(ended)}"
        )
    for task, low, high in zip(tasks, *window):
        # A line goes to the file behind standard output: they may be one apart.
        if not low + 1 <= first[task] <= high + 2:
            raise Wrong(
                f"task {task} was restarted at {first[task]}, but its checkpoint was made from"
                f" {low} to {high}"
            )
    for task, text in zip(tasks, victim.files()):
        if task not in list(read_lives(text))[-1].ended:
            raise Wrong(f"the restarted task {task} has not come to its end in its file")
