# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr gc`: remove what is of no more use; as root, of all users below a directory."""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pycr import config
from pycr.cli import byte_count, count, size, verb_parser
from pycr.cli.words import generations
from pycr.errors import PycrError, SlurmError, UsageError, printable
from pycr.images import gc, sweep
from pycr.slurm import commands

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def age(text: str) -> float:
    """Parse --older-than: a number and its unit."""
    match = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    if match is None or not int(match.group(1)):
        raise argparse.ArgumentTypeError(f"{text!r} is no age, as 12h, 30d or 8w")
    return int(match.group(1)) * UNITS[match.group(2)]


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument(
        "dirs", metavar="DIR", nargs="*", help="look below DIR (default: where images would be)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument(
        "--keep",
        metavar="N",
        type=generations,
        default=0,
        help="keep N of each step, of running jobs too",
    )
    parser.add_argument(
        "--older-than",
        metavar="AGE",
        type=age,
        default=0.0,
        help="all of jobs that are over whose newest is older, as 30d",
    )
    parser.add_argument(
        "--max-size",
        metavar="SIZE",
        type=byte_count,
        default=0,
        help="then the oldest of each image directory, while all take more, as 20G; never the"
        " newest of a step",
    )
    parser.add_argument("--json", action="store_true", help="print what was removed as JSON")
    arguments = parser.parse_args(argv)
    if os.geteuid() == 0 and not arguments.dirs:
        raise UsageError("as root, name the directories to look below, as pycr gc /home")
    if "" in arguments.dirs:
        raise UsageError("'' is no directory")
    rules = gc.Rules(arguments.keep, arguments.older_than, arguments.max_size)
    jobs = known_jobs()
    places = [Path(os.path.realpath(each)) for each in arguments.dirs]

    def work(place: Path) -> Iterator[sweep.Report]:
        return clean(place, jobs, rules, arguments.dry_run)

    rows = []
    for uid, report in everything(places, work):
        rows.append({"user": name(uid), **report})
        if not arguments.json:
            tell(report, arguments.dry_run)
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        summary(rows, arguments.dry_run)
    return 1 if any(row["error"] for row in rows) else 0


def known_jobs() -> gc.Jobs:
    """Return what Slurm knows; where it does not answer, nothing of a job is removed."""
    try:
        return gc.Jobs(commands.jobs())
    except SlurmError as error:
        print(f"pycr: warning: {error}: all jobs are taken to run", file=sys.stderr)
        return gc.Jobs(None)


def everything(places: list[Path], work: sweep.Work) -> Iterator[tuple[int, sweep.Report]]:
    """Yield what is done, with whose it is."""
    uid = os.geteuid()
    if uid == 0:
        for place in places:
            yield from sweep.everyone(place, work)
        return
    own = [each.path for place in places or usual() for each in sweep.search(place) if each.mine]
    for place in dict.fromkeys(own):
        for report in work(place):
            yield uid, report


def usual() -> list[Path]:
    """Return where this user's images would be, as far as that is there."""
    settings = config.Site()
    with suppress(SlurmError):
        settings = config.site()
    named = os.environ.get("SLURM_CHECKPOINT_DIR")
    places = [config.default_top(settings), *([Path(named)] if named else [])]
    return [Path(os.path.realpath(place)) for place in places if os.path.isdir(place)]


def clean(place: Path, jobs: gc.Jobs, rules: gc.Rules, dry_run: bool) -> Iterator[sweep.Report]:
    """Remove what is of no more use in an image directory; yield each thing."""
    for each in gc.find(place, jobs, rules):
        error = ""
        try:
            if not dry_run:
                gc.remove(each)
        except (PycrError, OSError) as trouble:
            error = str(trouble)
        yield {"path": str(each.path), "why": each.why, "size": each.size, "error": error}


def tell(report: sweep.Report, dry_run: bool) -> None:
    """Print what was done with one thing."""
    path = printable(str(report["path"]))
    if report["error"]:
        print(f"pycr: {path}: not removed: {printable(str(report['error']))}", file=sys.stderr)
        return
    done = "would be removed" if dry_run else "removed"
    print(f"{path}: {done}: {printable(str(report['why']))} ({size(int(report['size']))})")


def summary(rows: list[sweep.Report], dry_run: bool) -> None:
    """Print how much that was, of each user."""
    for user in sorted({row["user"] for row in rows}):
        own = [row for row in rows if row["user"] == user and not row["error"]]
        total = size(sum(int(row["size"]) for row in own))
        print(f"{user}: {count(len(own), 'thing')}, {total}{' to remove' if dry_run else ''}")


def name(uid: int) -> str:
    """Return a user's name, or their number where they have none here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
