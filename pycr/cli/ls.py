# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr ls`: the checkpoints there are, a line a generation."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from pycr import image
from pycr.cli import size, totals, verb_parser
from pycr.cli.find import image_dirs
from pycr.errors import DirectoryError, PycrError


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument(
        "dirs", metavar="DIR", nargs="*", help="image directories (default: where they would be)"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    arguments = parser.parse_args(argv)
    for name in arguments.dirs:
        try:
            os.listdir(name)
        except OSError as error:
            raise DirectoryError(f"{name}: {error.strerror}") from error
    places = [Path(name) for name in arguments.dirs] or image_dirs(None)
    rows = [row(path) for place in places for step in found(place) for path in step]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    elif rows:
        table(rows)
    return 0


def found(place: Path) -> list[list[Path]]:
    """Return the generations under an image directory, or of a step's, by step."""
    own = image.generations(place)
    if own:
        return [own]
    return [image.generations(step) for step in image.steps(place)]


def row(path: Path) -> dict[str, Any]:
    """Return what there is to say of a generation in one line."""
    base = {"path": str(path.absolute()), "step": path.parent.name, "generation": path.name}
    base["set_aside"] = image.aside(path)
    try:
        every = image.load_all(path)
    except PycrError as error:
        return {**base, "whole": False, "why": str(error)}
    manifest, *inside = every
    return {
        **base,
        "whole": True,
        "steps": [image.step_name(each.job_id, each.step_id) for each in inside],
        "nodes": int(manifest.geometry.get("nodes", 0)),
        **totals(every),
        "created": manifest.created,
        "command": manifest.command,
    }


def table(rows: list[dict[str, Any]]) -> None:
    """Print rows for people."""
    head = ("STEP", "GENERATION", "TASKS", "NODES", "SIZE", "FROZEN", "AGE", "PATH")
    cells = [head]
    for each in rows:
        if each["set_aside"]:
            why = each["set_aside"]
            cells.append((each["step"], each["generation"], "set aside", "", "", "", "", why))
        elif each["whole"]:
            cells.append(
                (
                    each["step"],
                    each["generation"],
                    str(each["tasks"]),
                    str(each["nodes"]),
                    size(each["size"]),
                    f"{each['frozen']:.2f} s",
                    age(time.time() - each["created"]),
                    each["path"],
                )
            )
        else:
            cells.append((each["step"], each["generation"], "damaged", "", "", "", "", each["why"]))
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def age(seconds: float) -> str:
    """Return how long ago, for people."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
