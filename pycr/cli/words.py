# SPDX-License-Identifier: GPL-2.0-or-later
"""The words that scontrol took for options: MaxWait=10, ImageDir=DIR, StickToNodes.

They follow JOB[.STEP] in any order and in any case; StickToNodes may be cut to Stick, as there. The
last counts, and counts more than the option that it stands for.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pycr.errors import UsageError

STICK = "sticktonodes"
SPELT = {"max_wait": "MaxWait=SECONDS", "image_dir": "ImageDir=DIR", "stick": "StickToNodes"}


def seconds(text: str) -> int:
    """Parse --max-wait."""
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is no number of seconds")
    return int(text)


def generations(text: str) -> int:
    """Parse --keep."""
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is no number of checkpoints, 1 or more")
    return int(text)


def directory(text: str) -> str:
    """Parse ImageDir= and --image-dir."""
    if not text:
        raise argparse.ArgumentTypeError("it names no directory")
    return text


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str], known: Sequence[str]
) -> argparse.Namespace:
    """Parse a verb's options and, behind JOB[.STEP], scontrol's words for these. Raises UsageError.

    known: which it has, by their names in the result.
    """
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args(argv)
    take(arguments.words, arguments, known)
    return arguments


def take(words: Sequence[str], arguments: argparse.Namespace, known: Sequence[str]) -> None:
    """Put into a result what words say. Raises UsageError."""
    for word in words:
        name, equals, text = word.partition("=")
        low = name.lower()
        try:
            if low == "maxwait" and equals and "max_wait" in known:
                arguments.max_wait = seconds(text)
            elif low == "imagedir" and equals and "image_dir" in known:
                arguments.image_dir = directory(text)
            elif len(low) >= 5 and STICK.startswith(low) and not equals and "stick" in known:
                arguments.stick = True
            else:
                wanted = " or ".join(SPELT[each] for each in known)
                raise argparse.ArgumentTypeError(f"it is not {wanted}")
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"{word!r:.80}: {error}") from error


def behind(more: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part what follows the checkpoint of a restart: scontrol's words, and options of Slurm's.

    pycr's own --image-dir and --stick may stand there too: Slurm has none by these names.
    """
    words: list[str] = []
    rest = list(more)
    while rest:
        option, equals, value = rest[0].partition("=")
        if rest[0] == "--stick":
            words.append(STICK)
        elif option == "--image-dir" and equals:
            words.append(f"imagedir={value}")
        elif rest[0] == "--image-dir" and len(rest) > 1:
            words.append(f"imagedir={rest.pop(1)}")
        elif rest[0].startswith("-"):
            break
        else:
            words.append(rest[0])
        del rest[0]
    return words, rest


def number(text: str) -> int:
    """Parse a time in seconds since the epoch, or an error code."""
    if not (text.isascii() and text.isdigit()) or len(text) > 12:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is no number")
    return int(text)
