# SPDX-License-Identifier: GPL-2.0-or-later
"""How a keeper puts its job back into the queue, and what it says where that comes to nothing."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pycr import config
from pycr.errors import PycrError
from pycr.images.requeue import write_requeue
from pycr.slurm import commands, preemption

if TYPE_CHECKING:
    from pycr.keeper.process import Keeper

LINGER = 60.0  # seconds that it goes on after what it looks after has ended, with what it has begun
OTHERS = 0.5  # seconds between two looks whether the job's other steps are ready for its requeue
AGAIN = 10.0  # seconds between attempts to put it back without a new checkpoint
IN_VAIN = 2  # lives that may go on from one generation and make none


def last_resort(keeper: Keeper) -> None:
    """No time is left for a checkpoint: go on from the generation before, if there is one.

    Not for ever: lives that all go on from the same one get nothing done. Preemption is no fault
    of theirs.
    """
    path = keeper.diary.generation()
    keeper.due, keeper.given_up = float("inf"), keeper.facts.end or 0.0
    text = f"{keeper.target}: no checkpoint could be made in time"
    if path is None:
        keeper.diary.note(f"{text}, and none was before")
    elif not keeper.back():
        keeper.diary.note(f"{text}; the last: {path}")
    elif keeper.diary.lives(path) >= IN_VAIN and not keeper.facts.preempted:
        keeper.diary.note(
            f"{text}, for the second time since {path}: not put back; see why, then: pycr restart"
            f" {path}"
        )
    else:
        keeper.diary.note(f"{text}; it is put back, with {path}", "back")
        keeper.diary.end("requeued")
        try:
            if keeper.is_batch:
                home = keeper.settings.checkpoint_dir
                default = config.default_dir(keeper.site, keeper.job_id)
                write_requeue(Path(home) if home else default, keeper.job_id, path)
            preemption.requeue(keeper.job_id)
        except PycrError as error:
            keeper.diary.note(f"{keeper.target}: not put back into the queue yet: {error}", "yet")
            keeper.due, keeper.given_up = keeper.now, 0.0
            keeper.retry_at = time.monotonic() + AGAIN


def put_back(keeper: Keeper) -> None:
    """Put the job of a vacated step back, when its other kept steps are vacated too."""
    if keeper.now < keeper.requeue_at and keeper.diary.others(keeper.job):
        return
    keeper.requeue_at, keeper.over = 0.0, "requeued"
    try:
        preemption.requeue(keeper.job_id)
    except PycrError as error:
        keeper.diary.note(f"{keeper.target}: vacated, but not put back into the queue: {error}")
        keeper.over = "vacated"
    while not keeper.gone and time.monotonic() - keeper.now < LINGER:
        time.sleep(OTHERS)  # its srun_cr waits for this, so that its script does not go on
        with suppress(PycrError):
            if commands.job(keeper.job_id).state != "RUNNING":
                break
