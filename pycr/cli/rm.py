# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr rm`: remove a generation, or all of a step."""

from __future__ import annotations

import json

from pycr import image
from pycr.cli import verb_parser
from pycr.cli.find import target


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument("checkpoints", metavar="DIR|JOB.STEP", nargs="+")
    parser.add_argument("--image-dir", metavar="DIR", help="look for JOB.STEP in DIR")
    parser.add_argument("--json", action="store_true", help="print what was removed as JSON")
    arguments = parser.parse_args(argv)
    paths = [target(word, arguments.image_dir) for word in arguments.checkpoints]
    for path in paths:
        image.check_removable(path)
    for path in paths:
        image.remove(path)
    if arguments.json:
        print(json.dumps([str(path) for path in paths]))
    return 0
