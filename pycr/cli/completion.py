# SPDX-License-Identifier: GPL-2.0-or-later
"""What can stand at the cursor: for the shells' completion scripts (pycr/completion/).

    pycr --complete SHELL WORD...     the words behind "pycr", the last one being typed, perhaps ""

prints a line for each word that can: the word, and behind a tab what it is. Verbs, options and what
they take come from the parsers themselves: by an argument's metavar it is known what is wanted.

    JOB, JOB[.STEP]         the user's running jobs, and their steps
    DIR|JOB[.STEP]          jobs and steps that have images, and directories
    DIR, FILE               directories; files too
    NODE                    Slurm's nodes

What takes too long, or fails, is left out in silence: nobody waits for it, or would read it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pycr import cli
from pycr.cli.find import image_dirs
from pycr.errors import PycrError
from pycr.images import image
from pycr.protocol import is_helper
from pycr.slurm import commands

PATIENCE = 3.0  # seconds that Slurm may take to answer
BREAK = "="  # bash makes a word of its own of it (COMP_WORDBREAKS)

Choice = tuple[str, str]  # a word, and what it is


class Taken(Exception):
    """A parser that was asked."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def run(argv: list[str]) -> int:
    """Print what can stand at the cursor; return the exit status."""
    shell, words = (argv[0], argv[1:]) if argv else ("", [])
    cut = 0
    if shell == "bash":
        words, cut = joined(words)
    elif words:
        words[-1] = unquoted(words[-1])
    *before, word = words or [""]
    found: dict[str, str] = {}
    for name, what in choices(before, word):
        if name.startswith(word):
            found.setdefault(name[cut:], what)
    for name, what in found.items():
        if "\n" not in name and "\t" not in name:
            print(f"{name}\t{one_line(what)}")
    return 0


def joined(words: list[str]) -> tuple[list[str], int]:
    """Put together what bash has cut at "=", and take its quotes away.

    Return also how many characters of the last word it does not take for a part of it.
    """
    found: list[str] = []
    cut = 0
    for word in words:
        plain = unquoted(word)
        if word == BREAK and found:
            found[-1] += word
            cut = len(found[-1])
        elif found and found[-1].endswith(BREAK) and found[-1].startswith("--"):
            found[-1] += plain
        else:
            found.append(plain)
            cut = 0
    return found, cut


def unquoted(word: str) -> str:
    """Return a word of a command line without its quotes; the last may be still open."""
    if word[:1] in ("'", '"'):
        return word[1:].removesuffix(word[0]) if len(word) > 1 else ""
    return re.sub(r"\\(.)", r"\1", word)


def one_line(text: str) -> str:
    return " ".join(text.split())


def choices(before: list[str], word: str) -> Iterator[Choice]:
    """Yield what can stand behind some words, of which `word` may be a beginning."""
    verb = next((each for each in before if not each.startswith("-")), None)
    if verb is None:
        yield from options(cli.parser(), word)
        if not word.startswith("-"):
            yield from ((name, line) for name, (_, line) in cli.VERBS.items())
        return
    if verb not in cli.VERBS:
        return
    parser = parser_of(verb)
    if parser is None:
        return
    before = before[before.index(verb) + 1 :]
    if word.startswith("--") and BREAK in word:
        name, _, value = word.partition(BREAK)
        action = by_name(parser, name)
        if action is not None and action.nargs != 0:
            for found, what in values(action, value, before):
                yield f"{name}={found}", what
        return
    action = by_name(parser, before[-1]) if before else None
    if action is not None and action.nargs is None:
        yield from values(action, word, before)
        return
    if word.startswith("-"):
        yield from options(parser, word)
        return
    place = positional(parser, before)
    if place is not None:
        yield from values(place, word, before)


def parser_of(verb: str) -> argparse.ArgumentParser | None:
    """Return a verb's parser: its module is begun, and stopped where it would parse."""

    def take(parser: argparse.ArgumentParser) -> NoReturn:
        raise Taken(parser)

    module = importlib.import_module(f"pycr.cli.{cli.VERBS[verb][0]}")
    cli.VerbParser.asked = staticmethod(take)
    try:
        module.run(verb, [])
    except Taken as taken:
        return taken.parser
    finally:
        cli.VerbParser.asked = None
    return None


def options(parser: argparse.ArgumentParser, word: str) -> Iterator[Choice]:
    """Yield a parser's options; the short ones only where no more than "-" is typed."""
    for action in parser._actions:
        for name in action.option_strings:
            if action.help != argparse.SUPPRESS and (name.startswith("--") or word == "-"):
                yield name, (action.help or "").split(" (default", 1)[0]


def by_name(parser: argparse.ArgumentParser, name: str) -> argparse.Action | None:
    """Return an option by its name, None where the parser has no such."""
    return next((each for each in parser._actions if name in each.option_strings), None)


def positional(parser: argparse.ArgumentParser, before: list[str]) -> argparse.Action | None:
    """Return the argument whose turn it is behind some words; None where there is no more."""
    seen, skip = 0, False
    for word in before:
        action = by_name(parser, word)
        if skip:
            skip = False
        elif action is not None:
            skip = action.nargs is None
        elif not word.startswith("-"):
            seen += 1
    for action in parser._actions:
        if action.option_strings:
            continue
        if seen == 0 or action.nargs in ("*", "+"):
            return action if action.nargs != argparse.REMAINDER else None
        seen -= 1
    return None


def values(action: argparse.Action, word: str, before: list[str]) -> Iterator[Choice]:
    """Yield what an argument, or an option's value, can be."""
    if action.choices is not None:
        yield from ((str(each), "") for each in action.choices)
        return
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    wanted = re.split(r"[^A-Z]+", metavar)
    if "JOB" in wanted and "DIR" in wanted:
        yield from images(before)
    elif "JOB" in wanted:
        yield from running("STEP" in wanted)
    if "NODE" in wanted or "NODELIST" in wanted:
        yield from nodes()
    if "DIR" in wanted or "FILE" in wanted or "PATH" in wanted:
        yield from paths(word, "DIR" not in wanted)


def ask(*command: str) -> list[str]:
    """Return the lines that a Slurm command prints, none where it fails."""
    with suppress(PycrError):
        return commands.run(*command, timeout=PATIENCE).splitlines()
    return []


def running(steps: bool) -> Iterator[Choice]:
    """Yield the user's running jobs and, where wanted, their steps."""
    mine = (f"--user={os.getuid()}", "-h")
    for line in ask("squeue", *mine, "--states=RUNNING,SUSPENDED", "-o", "%A %j"):
        job, _, name = line.strip().partition(" ")
        if job.isdigit():
            yield job, f"job {name}"
    for line in ask("squeue", *mine, "-s", "-o", "%i %j") if steps else ():
        step, _, name = line.strip().partition(" ")
        if re.fullmatch(r"[0-9]+\.[0-9]+", step) and not is_helper(name):
            yield step, f"step {name}"


def nodes() -> Iterator[Choice]:
    """Yield Slurm's nodes."""
    for line in ask("sinfo", "-h", "-N", "-o", "%N %T"):
        node, _, state = line.strip().partition(" ")
        yield node, state


def images(before: list[str]) -> Iterator[Choice]:
    """Yield the jobs and steps that have images where they would be looked for."""
    named = [word.partition(BREAK)[2] for word in before if word.startswith("--image-dir=")]
    with suppress(ValueError, IndexError):
        named.append(before[before.index("--image-dir") + 1])
    option = os.path.expanduser(named[-1]) if named else None
    places: list[Path] = []
    with suppress(PycrError):
        places = image_dirs(option)
    for place in places:
        for step in image.steps(place):
            job, _, step_id = step.name.partition(".")
            yield (job if step_id == "batch" else step.name), f"in {place}"


def paths(word: str, files: bool) -> Iterator[Choice]:
    """Yield the directories, and files where wanted, that a beginning of a path can become."""
    head, _, tail = word.rpartition("/")
    head += "/" if "/" in word else ""
    with suppress(OSError), os.scandir(os.path.expanduser(head) or ".") as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            hidden = entry.name.startswith(".") and not tail.startswith(".")
            if hidden or not entry.name.startswith(tail):
                continue
            with suppress(OSError):
                if entry.is_dir():
                    yield f"{head}{entry.name}/", "directory"
                elif files:
                    yield f"{head}{entry.name}", "file"
