# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a checkpoint may be made as far as its size goes: there must be room for it, and the site
may set a limit (max_size in plugstack.conf).

before() goes by what the memory of the tasks will take at the least, with nothing frozen yet;
after() by what was written, with nothing committed yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pycr.images import space

if TYPE_CHECKING:
    from pycr.coordinator.step import Checkpoint


def before(checkpoint: Checkpoint, directory: Path) -> None:
    """Refuse what will not fit, together with what is written at the same time, or is too much.

    Raises DirectoryError.
    """
    title = checkpoint.step.title
    space.check(directory, sum(each.needs for each in checkpoint.together()), title)
    size = sum(each.needs for each in parts(checkpoint))
    space.check_limit(checkpoint.site.max_size, size, f"{title}: the checkpoint needs")


def after(checkpoint: Checkpoint) -> None:
    """Refuse what has become too much. Raises DirectoryError."""
    size = sum(written(each) for each in parts(checkpoint))
    title = checkpoint.step.title
    space.check_limit(checkpoint.site.max_size, size, f"{title}: the checkpoint has")


def parts(checkpoint: Checkpoint) -> list[Checkpoint]:
    """Return those that are in one generation with this one, itself among them."""
    whole = checkpoint.inside or checkpoint
    return [each for each in checkpoint.together() if (each.inside or each) is whole]


def written(checkpoint: Checkpoint) -> int:
    """Return the bytes of a step's image."""
    sealed = checkpoint.helpers.events("sealed").values()
    return sum(int(size) for each in sealed for size, _ in each["files"].values())
