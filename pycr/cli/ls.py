# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr ls`: the checkpoints there are, a line a generation."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pycr.cli import size, totals, verb_parser
from pycr.cli.find import image_dirs, refuse_empty
from pycr.cli.when import age, span
from pycr.errors import AccessDenied, DirectoryError, ImageError, PycrError
from pycr.images import image, oldnames

# --sort: what a row is put by, and whether the largest comes first
ORDERS = {"age": ("created", True), "size": ("size", True), "work": ("work", True)}


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument(
        "checkpoints",
        metavar="DIR|JOB[.STEP]",
        nargs="*",
        help="image directories, or jobs and steps (default: all where images would be)",
    )
    parser.add_argument(
        "--sort",
        choices=("step", *ORDERS),
        default="step",
        help="the youngest, the largest, or those that save most work first"
        " (default: by job and step)",
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    arguments = parser.parse_args(argv)
    words = arguments.checkpoints
    every = [each for word in words for each in named(word)]
    if not words:
        every = [each for place in image_dirs(None) for each in found(place)]
    rows = [row(path) for path in every]
    if arguments.sort != "step":
        key, reverse = ORDERS[arguments.sort]
        rows.sort(key=lambda each: each.get(key) or 0, reverse=reverse)
    if arguments.json:
        print(json.dumps(rows, indent=1))
    elif rows:
        table(rows)
    return 0


def named(word: str) -> Iterator[Path]:
    """Yield the generations that a word means. Raises DirectoryError, ImageError, UsageError."""
    refuse_empty(word)
    match = re.fullmatch(r"([0-9]{1,10})(?:\.(?:[0-9]{1,10}|batch))?", word)
    if match is None or os.path.isdir(word):
        place = oldnames.successor(Path(word))
        try:
            os.listdir(place)
        except OSError as error:
            raise DirectoryError(f"{place}: {error.strerror}") from error
        yield from found(place)
        return
    places = image_dirs(None, int(match.group(1)))
    steps = [step for place in places for step in image.steps(place)]
    mine = [step for step in steps if word in (step.name, step.name.partition(".")[0])]
    if not mine:
        looked = ", ".join(str(place) for place in places)
        raise ImageError(f"{word}: no checkpoint of it in {looked}: name its directory")
    for step in mine:
        yield from image.generations(step, ruins=True)


def found(place: Path) -> Iterator[Path]:
    """Yield the generations under an image directory, or of a step's, by step."""
    own = image.generations(place, ruins=True)
    if own:
        yield from own
        return
    for step in image.steps(place):
        yield from image.generations(step, ruins=True)


def row(path: Path) -> dict[str, Any]:
    """Return what there is to say of a generation in one line."""
    base = {"path": str(path.absolute()), "step": path.parent.name, "generation": path.name}
    base["set_aside"] = image.aside(path)
    try:
        every = image.load_all(path)
    except PycrError as error:
        denied = isinstance(error, AccessDenied)  # another user's, whom root may be looking at
        return {**base, "whole": False, "denied": denied, "why": str(error)}
    manifest, *inside = every
    return {
        **base,
        "whole": True,
        "steps": [image.step_name(each.job_id, each.step_id) for each in inside],
        "nodes": int(manifest.geometry.get("nodes", 0)),
        **totals(every),
        "work": manifest.work or None,
        "created": manifest.created,
        "command": manifest.command,
    }


def table(rows: list[dict[str, Any]]) -> None:
    """Print rows for people."""
    head = ("STEP", "GENERATION", "TASKS", "NODES", "SIZE", "FROZEN", "WORK", "AGE", "PATH")
    cells = [head]
    for each in rows:
        if each["set_aside"]:
            why = each["set_aside"]
            cells.append((each["step"], each["generation"], "set aside", "", "", "", "", "", why))
        elif each["whole"]:
            cells.append(
                (
                    each["step"],
                    each["generation"],
                    str(each["tasks"]),
                    str(each["nodes"]),
                    size(each["size"]),
                    f"{each['frozen']:.2f} s",
                    span(each["work"]) if each["work"] else "?",
                    age(time.time() - each["created"]),
                    each["path"],
                )
            )
        else:
            empty = [""] * (len(head) - 4)
            what = "refused" if each["denied"] else "damaged"
            cells.append((each["step"], each["generation"], what, *empty, each["why"]))
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
