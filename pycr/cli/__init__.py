# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `pycr`: one module a verb; here, what they share and the one way out.

Errors become one line and an exit status in main(), nowhere else.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from pycr import __version__
from pycr.coordinator import interrupt
from pycr.errors import DirectoryError, PycrError, UsageError, printable
from pycr.images.manifest import Manifest
from pycr.images.space import size as size
from pycr.slurm import BATCH

NO_VAL = 0xFFFFFFFE  # every step of a job

# verb -> (module, one line for --help)
VERBS = {
    "create": ("checkpoint", "checkpoint a batch job or a step, which goes on running"),
    "vacate": ("checkpoint", "checkpoint a batch job or a step, then end it"),
    "requeue": ("checkpoint", "checkpoint a batch job, and put it back into the queue"),
    "able": ("able", "tell whether a job or a step can be checkpointed now"),
    "disable": ("enable", "have checkpoints of a job or a step refused"),
    "enable": ("enable", "have them made again"),
    "error": ("error", "tell what went wrong with the last checkpoint"),
    "tasks": ("tasks", "checkpoint the tasks of a step, at a given time"),
    "complete": ("complete", "note what came of a checkpoint"),
    "restart": ("restart", "start a job or a step that goes on from a checkpoint"),
    "ls": ("ls", "list checkpoints"),
    "show": ("show", "tell everything about one checkpoint"),
    "status": ("status", "tell how a job's checkpoints stand, and how far a running one is"),
    "verify": ("verify", "tell whether a checkpoint is whole, and could be restarted"),
    "rm": ("rm", "remove checkpoints"),
    "report": ("report", "show where a job's time went: run, frozen, queued, lost"),
    "drain": ("drain", "checkpoint and requeue the jobs on nodes that are to be drained"),
    "gc": ("gc", "remove checkpoints that are of no more use"),
    "doctor": ("doctor", "tell what this node lacks for pycr to work"),
}
CLOSED_PIPE = 141  # as a shell says of what SIGPIPE ended
CHECKPOINTS = ("create", "vacate", "requeue", "tasks", "drain")  # what these make is given up


def by_name(text: str) -> str:
    """Return JOB or JOB.batch where a program wrote Slurm's numbers for these, else the text."""
    for number, name in ((NO_VAL, ""), (BATCH, ".batch")):
        if re.fullmatch(rf"[0-9]+\.{number}", text):
            return text.split(".")[0] + name
    return text


def step_id(text: str) -> tuple[int, int | None]:
    """Parse JOB, JOB.STEP or JOB.batch. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,9})(?:\.([0-9]{1,9}|batch))?", by_name(text))
    if re.fullmatch(r"[0-9]+_[0-9]+(\..*)?", text):
        task = text.split(".")[0]
        raise UsageError(
            f"{text!r:.80} is neither JOB nor JOB.STEP: a task of an array has a job id of its"
            f" own: squeue -h -o %A -j {task:.40}"
        )
    if match is None or not int(match.group(1)):
        raise UsageError(f"{text!r:.80} is neither JOB nor JOB.STEP")
    job, step = match.groups()
    return int(job), None if step is None else BATCH if step == "batch" else int(step)


def byte_count(text: str) -> int:
    """Parse a size: bytes, or with K, M, G, T behind it (1024 of the one before)."""
    match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)(?:i?B)?", text)
    if match is None or not int(match.group(1)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size, as 500M or 20G")
    return int(match.group(1)) << 10 * " KMGT".index(match.group(2) or " ")


def count(number: int, thing: str) -> str:
    """Return a number of things for people: "1 task", "2 tasks"."""
    return f"{number} {thing}{'' if number == 1 else 's' if thing[-1] != 's' else 'es'}"


def totals(every: list[Manifest]) -> dict[str, Any]:
    """Return the tasks, bytes and longest stop of a generation with the steps that are in it.

    A batch script counts for none of the tasks.
    """
    manifest, *inside = every
    return {
        "tasks": sum(len(each.tasks) for each in (inside if manifest.batch else every)),
        "size": sum(each.size for each in every),
        "frozen": max(each.frozen for each in every),
    }


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line up to the verb; each verb has its own."""
    made = argparse.ArgumentParser(
        prog="pycr",
        description="Checkpoint and restart Slurm batch jobs and job steps.",
        epilog="verbs:\n"
        + "\n".join(f"  {verb:<9} {line}" for verb, (_, line) in VERBS.items())
        + "\n\n'pycr VERB --help' tells its options; pycr(1) tells all.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"pycr {__version__}")
    made.add_argument("--debug", action="store_true", help="show where an error comes from")
    made.add_argument("verb", metavar="VERB", choices=VERBS)
    made.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return made


class VerbParser(argparse.ArgumentParser):
    """A verb's parser, which can be asked what it takes (completion.py) in place of parsing."""

    asked: Callable[[argparse.ArgumentParser], NoReturn] | None = None

    def parse_known_args(self, *args: Any, **more: Any) -> Any:
        """Parse, or answer."""
        if VerbParser.asked is not None:
            VerbParser.asked(self)
        return super().parse_known_args(*args, **more)

    def parse_known_intermixed_args(self, *args: Any, **more: Any) -> Any:
        """Parse, or answer: in Python 3.13 this does not go by parse_known_args."""
        if VerbParser.asked is not None:
            VerbParser.asked(self)
        return super().parse_known_intermixed_args(*args, **more)


def verb_parser(verb: str, **more: Any) -> argparse.ArgumentParser:
    """Return a parser for one verb's options."""
    description = VERBS[verb][1]
    return VerbParser(
        prog=f"pycr {verb}",
        description=description[0].upper() + description[1:] + ".",
        allow_abbrev=False,
        **more,
    )


def have_streams() -> None:
    """Open /dev/null where a standard stream is closed: no file that is opened may come in its
    place."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def flush() -> None:
    """Have standard output written. Raises BrokenPipeError, DirectoryError."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        forget_output()
        raise DirectoryError(f"standard output: {error.strerror}") from error


def forget_output() -> None:
    """Have what standard output did not take go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> int:
    """Run the command line; return its exit status."""
    debug, verb = False, ""
    have_streams()
    try:
        interrupt.catch()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # names need not be text
        if sys.argv[1:2] == ["--complete"]:  # from a shell's completion, on every Tab
            return int(importlib.import_module("pycr.cli.completion").run(sys.argv[2:]))
        try:
            arguments = parser().parse_args()
            debug, verb = arguments.debug, arguments.verb
            module = importlib.import_module(f"pycr.cli.{VERBS[verb][0]}")
            return int(module.run(verb, arguments.rest))
        finally:
            flush()  # Python's own flush, at its end, is too late to say what is wrong
    except PycrError as error:
        if debug:
            raise
        print(f"pycr: {printable(str(error))}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        more = ": given up, the tasks run on" if verb in CHECKPOINTS else ""
        print(f"pycr: interrupted{more}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        forget_output()
        return CLOSED_PIPE
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"pycr: {printable(f'{where}{error.strerror or error}')}", file=sys.stderr)
        return DirectoryError.exit_status
    except Exception as error:
        if debug:
            raise
        what = f"{type(error).__name__}: {error}"
        print(f"pycr: a fault of pycr's own: {what} (--debug shows where)", file=sys.stderr)
        return PycrError.exit_status
    finally:
        interrupt.over()
