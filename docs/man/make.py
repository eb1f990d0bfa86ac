# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the man pages of the verbs from their one source, verbs.roff, which says how it is written.

python3 docs/man/make.py DIR      setup.py does, when pycr is built
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "verbs.roff"
ALWAYS = ("0", "2")  # exit statuses that every verb has


def version() -> str:
    """Return pycr's version."""
    text = (HERE.parents[1] / "pycr/__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.*)"', text, re.MULTILINE)
    assert match is not None
    return match.group(1)


def pages() -> dict[str, str]:
    """Return every page by its file's name. Raises ValueError where the source is wrong."""
    date = ""
    statuses: dict[str, str] = {}
    parts: dict[str, list[str]] = {}
    made: dict[str, list[str]] = {}
    into: list[str] = []
    for line in SOURCE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("@"):
            into.append(line)
            continue
        word, _, rest = line.partition(" ")
        first, _, text = rest.partition(" ")
        if word == "@date":
            date = rest
        elif word == "@status":
            statuses[first] = text
        elif word == "@part":
            into = parts[first] = []
        elif word == "@end":
            into = []
        elif word == "@page":
            into = made[f"pycr-{first}.1"] = head(first, text, date)
        elif word == "@synopsis":
            verb = re.sub(r"^pycr\\-", "", into[-1].split(" ")[0])
            into += [".SH SYNOPSIS", f"\\fBpycr {verb}\\fR {styled(rest)}", ".SH DESCRIPTION"]
        elif word == "@use":
            into += parts[first]
        elif word == "@exits":
            into += tail([*ALWAYS, *rest.split()], statuses)
            into = []
        else:
            raise ValueError(f"{SOURCE}: {word}: no such directive")
    return {name: "\n".join(lines) + "\n" for name, lines in made.items()}


def head(verb: str, line: str, date: str) -> list[str]:
    """Return how a page begins."""
    return [
        '.\\" SPDX-License-Identifier: GPL-2.0-or-later',
        f'.\\" Made of docs/man/{SOURCE.name}: change that.',
        f'.TH PYCR\\-{verb.upper()} 1 {date} "pycr {version()}" "Slurm checkpoint/restart"',
        ".SH NAME",
        f"pycr\\-{verb} \\- {line}",
    ]


def styled(words: str) -> str:
    """Return a synopsis with its options bold and what stands for something italic."""
    words = re.sub(r"\b(ImageDir=|MaxWait=|StickToNodes)", r"\\fB\1\\fR", words)
    words = re.sub(r"--[a-z-]+", lambda match: f"\\fB{match.group()}\\fR", words)
    words = re.sub(r"\b(?:[A-Z]{2,}|N)\b", lambda match: f"\\fI{match.group()}\\fR", words)
    return words.replace("-", "\\-")


def tail(exits: list[str], statuses: dict[str, str]) -> list[str]:
    """Return how a page ends."""
    lines = [".SH EXIT STATUS"]
    for number in sorted(exits, key=int):
        lines += [".TP", f".B {number}", statuses[number]]
    return [*lines, ".SH SEE ALSO", ".BR pycr (1),", ".BR srun_cr (1),", ".BR scontrol (1)"]


def write(directory: Path) -> list[Path]:
    """Write the pages into a directory; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in pages().items():
        paths.append(directory / name)
        paths[-1].write_text(text, encoding="utf-8")
    return paths


if __name__ == "__main__":
    write(Path(sys.argv[1]))
