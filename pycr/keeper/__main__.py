# SPDX-License-Identifier: GPL-2.0-or-later
"""The keeper as a program; pycr/keeper/__init__.py has its words."""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress

from pycr import config
from pycr.coordinator import record
from pycr.errors import PycrError, SlurmError
from pycr.keeper.diary import Diary
from pycr.keeper.process import Keeper
from pycr.settings import Settings

PAUSE = 10.0  # seconds between attempts to begin


def main() -> int:
    """Run it; 0, or 1 where it could not begin, which is said."""
    target, watch, settings, *generation = sys.argv[1:]
    os.umask(0o077)
    try:
        made = Keeper(target, watch, Settings(settings), *generation)
    except ProcessLookupError:
        return 0  # what it was to look after has ended already
    said = ""
    while True:
        try:
            if made.begin():
                made.run()
            return 0
        except (PycrError, OSError) as error:
            again = type(error) is SlurmError  # slurmctld is down or busy, for now
            if str(error) != said:
                tell(target, f"it has no keeper{' yet' if again else ''}: {error}")
            said = str(error)
        if not again:
            return 1
        if select.select([made.watched], [], [], PAUSE)[0]:
            return 1  # its end, or a word of its parent's, which then hears that it is alone


def tell(target: str, text: str) -> None:
    """Tell the user, and the journal: a batch job's keeper has nobody else to tell."""
    kept = None
    with suppress(PycrError):
        kept = record.of_job(config.site(), int(target.partition(".")[0]))
    Diary(target, kept).note(f"{target}: {text}")


if __name__ == "__main__":
    sys.exit(main())
