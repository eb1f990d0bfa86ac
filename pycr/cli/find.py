# SPDX-License-Identifier: GPL-2.0-or-later
"""Which checkpoint a word on the command line means, and where they are looked for."""

from __future__ import annotations

import argparse
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from pycr import config
from pycr.cli.words import directory
from pycr.errors import ImageError, SlurmError, UsageError
from pycr.images import oldnames


def add_image_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option of all that take JOB[.STEP] for a checkpoint: target() is given it."""
    parser.add_argument(
        "--image-dir", metavar="DIR", type=directory, help="look for JOB[.STEP] in DIR"
    )


def refuse_empty(word: str) -> None:
    """Refuse a shell's unset variable: as a path it would be the current directory.

    Raises UsageError.
    """
    if not word:
        raise UsageError("'' is neither a directory nor JOB nor JOB.STEP")


def image_dirs(option: str | None, job_id: int = 0) -> list[Path]:
    """Return the image directories to look in: the option's alone, or the variable's, the site's
    and the current one."""
    if option is not None:
        return [Path(option)]
    found = []
    if os.environ.get("SLURM_CHECKPOINT_DIR"):
        found.append(Path(os.environ["SLURM_CHECKPOINT_DIR"]))
    settings = config.Site()
    with suppress(SlurmError):  # images can be looked at where Slurm does not answer
        settings = config.site()
    found.append(config.default_dir(settings, job_id))
    found.append(Path.cwd())
    return list(dict.fromkeys(found))


def target(word: str, option: str | None) -> Path:
    """Return the path that a word means: JOB, JOB.STEP in an image directory, or else a directory,
    or the name of an old image (images/oldnames.py).

    Raises ImageError, UsageError.
    """
    refuse_empty(word)
    match = re.fullmatch(r"([0-9]{1,10})(\.(?:[0-9]{1,10}|batch))?", word)
    if match is None:
        path = oldnames.successor(Path(word).absolute())
        try:
            there = stat.S_ISDIR(os.stat(path).st_mode)
        except PermissionError as error:
            raise ImageError(f"{word}: {error.strerror}") from error
        except (OSError, ValueError):
            there = False
        if not there:
            raise ImageError(f"{word}: no such directory, and neither JOB nor JOB.STEP")
        return path
    word = match.group(1) + (match.group(2) or ".batch")
    places = image_dirs(option, int(word.split(".")[0]))
    for place in places:
        if os.path.isdir(place / word):
            return (place / word).absolute()
    looked = ", ".join(str(place) for place in places)
    raise ImageError(f"{word}: no checkpoint of it in {looked}: name its directory or --image-dir")
