# SPDX-License-Identifier: GPL-2.0-or-later
"""The keeper as a program; pycr/keeper/__init__.py has its words."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from pycr.errors import PycrError
from pycr.keeper.process import Keeper
from pycr.settings import Settings


def main() -> int:
    """Run it; 0, or 1 where it could not begin, which is said."""
    target, watch, settings, *generation = sys.argv[1:]
    os.umask(0o077)
    try:
        made = Keeper(target, watch, Settings(settings), *generation)
    except ProcessLookupError:
        return 0  # what it was to look after has ended already
    try:
        if made.begin():
            made.run()
    except (PycrError, OSError) as error:
        with suppress(OSError):
            os.write(2, f"pycr: {target}: it has no keeper: {error}\n".encode(errors="replace"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
