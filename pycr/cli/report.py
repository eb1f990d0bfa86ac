# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr report`: where a job's time went, in text, as a picture, or as JSON."""

from __future__ import annotations

import locale
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from pycr.cli import step_id, verb_parser
from pycr.cli.restart import regain
from pycr.cli.words import directory
from pycr.errors import DirectoryError, UsageError
from pycr.report import as_json, history, text
from pycr.report.history import Report

FORMS = (".svg", ".png")


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument("job", metavar="JOB", nargs="?")
    parser.add_argument(
        "-o", dest="file", metavar="FILE", help="draw it into FILE.svg or FILE.png instead"
    )
    parser.add_argument(
        "--image-dir", metavar="DIR", type=directory, help="look for the job's journal in DIR"
    )
    parser.add_argument(
        "--from", dest="source", metavar="FILE", help="in place of JOB: what --json printed"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    arguments = parser.parse_args(argv)
    if (arguments.job is None) == (arguments.source is None):
        parser.error("give a JOB, or --from with a FILE")
    form = os.path.splitext(arguments.file or "")[1].lower()
    if arguments.file is not None and form not in FORMS:
        raise UsageError(f"{arguments.file or repr('')}: -o takes a name that ends in .svg or .png")
    if arguments.source is not None:
        with open(arguments.source, "rb") as file:
            made = as_json.load(file.read(as_json.LONGEST), arguments.source)
    else:
        job_id, wanted = step_id(arguments.job)
        if wanted is not None:
            raise UsageError(f"{arguments.job}: only a job has a report, not a step")
        made = history.look(job_id, arguments.image_dir)
    if arguments.file:
        regain()
        write(Path(arguments.file), drawn(made, form))
    if arguments.json:
        print(as_json.dump(made))
    elif not arguments.file:
        unicode = "utf-8" in (sys.stdout.encoding or "").lower() and is_utf8()
        width = shutil.get_terminal_size((100, 24)).columns
        print("\n".join(text.lines(made, width, unicode)))
    return 0


def is_utf8() -> bool:
    """Tell whether the locale can show more than ASCII. C.UTF-8 is what Python makes of C."""
    named = next((os.environ[n] for n in ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(n)), "")
    return "utf" in named.lower() and "utf" in locale.getpreferredencoding(False).lower()


def drawn(made: Report, form: str) -> bytes:
    """Return the picture in one of its forms."""
    from pycr.report import picture  # the text needs none of it

    shapes = picture.draw(made)
    return picture.svg(shapes) if form == ".svg" else picture.png(shapes)


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; a link of this name is replaced, not followed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
            file.write(data)
        os.rename(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise DirectoryError(f"{path}: {error.strerror}") from error
