# SPDX-License-Identifier: GPL-2.0-or-later
"""How an srun_cr of a batch script goes about its step in a job that may be requeued.

In the first life it only says which step it is (identity.py). In a later one it looks for that
step's generations, and starts srun with one after the other until one is restored; or it skips a
step that had ended with 0, where --cr-skip-done is given. srun_cr/job.py starts srun, and waits.
"""

from __future__ import annotations

import os

from pycr import identity
from pycr.settings import Settings, by_hand, options
from pycr.srun_cr.process import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pycr.again import Steps
    from pycr.journal import Journal
    from pycr.srun_cr.job import JobWrapper

FAILED = 125  # errors.py: RestoreFailed
# Tells a pod that srun_cr wants to know why it fails, and which attempt it is of srun_cr's.
BY_ITSELF = "SLURM_RESTART_BY_ITSELF"


def explicit(argv: Sequence[str]) -> bool:
    """Tell whether the user has named the checkpoint to restart the step from."""
    if os.environ.get("SLURM_RESTART_DIR"):
        return True
    return any(option == "--restart-dir" for option, _ in options(argv))


def run(wrapper: JobWrapper, text: str) -> int:
    """Start srun, from a generation of its step where there is one to go on from, and wait for it.

    text: the settings that the plugin told. Return the wait status to end as. Raises OSError.
    """
    os.environ.pop(identity.VARIABLE, None)  # of the step that this is in
    os.environ.pop(BY_ITSELF, None)
    if explicit(wrapper.argv) or not identity.in_script():
        wrapper.start()
        return wrapper.serve()
    settings = Settings(text) if text else by_hand(wrapper.argv, os.environ)
    skip = settings.skip_done or bool(os.environ.get("SLURM_CR_SKIP_DONE"))
    key = ""
    try:
        key = os.environ[identity.VARIABLE] = identity.of_step(wrapper.argv, settings.name)
    except OSError as error:
        say(
            f"{identity.place()}: {error.strerror}: a requeued job will not find this step's"
            " checkpoints"
        )
    if key and identity.lives():
        status = go_on(wrapper, settings, key, skip)
    else:
        wrapper.start()
        status = wrapper.serve()
    if skip and key and status == 0:
        leave_done(wrapper.step, key)
    return status


def go_on(wrapper: JobWrapper, settings: Settings, key: str, skip: bool) -> int:
    """Do it in a later life of the job."""
    from pycr.again import FRESH, Steps, in_vain, note
    from pycr.errors import PycrError

    try:
        steps = Steps(int(os.environ["SLURM_JOB_ID"]), key, settings.checkpoint_dir)
    except PycrError as error:
        say(f"couldn't look for the step's checkpoints: {error}")
        return FAILED << 8
    if skip and steps.done():
        note(steps.journal, "note", text=f"step {key}: it had ended with 0 and is skipped")
        say("the step had ended with 0 before the job was requeued: skipped")
        return 0
    if not steps.had:
        whole = steps.in_whole()
        if whole is not None:
            say(
                f"the step begins anew: it is in {whole}, a checkpoint of the whole job, which goes"
                " on from those by itself only where it was submitted with --cr"
            )
        other = steps.unclaimed(identity.seen())
        if whole is None and other is not None:
            say(
                "the step begins anew: it has no checkpoint by its words, directory and geometry;"
                f" {other} is of a step that has not begun yet, or had others then (--cr-name)"
            )
        wrapper.start()
        return wrapper.serve()
    status = try_each(wrapper, steps)
    if status is not None:
        return status
    text = f"none of the step's {steps.had} checkpoints can be restored"
    if settings.fallback != FRESH:
        say(f"{text}, and it does not begin anew by itself (--cr-fallback=fail)")
        return FAILED << 8
    if in_vain(steps.events, key):
        say(f"{text}, as after it began anew: it does not once more")
        return FAILED << 8
    note(steps.journal, "note", text=f"step {key}: {text}: it begins anew", anew=key)
    say(f"{text}: it begins anew")
    wrapper.start()
    return wrapper.serve()


def try_each(wrapper: JobWrapper, steps: Steps) -> int | None:
    """Start srun with one generation after the other; return its status, None where all failed."""
    from functools import partial

    while True:
        path = steps.next()
        for text in steps.told:
            say(text)
        steps.told.clear()
        if path is None:
            return None
        wrapper.launched = partial(_launched, steps.journal, str(path))
        attempt = os.urandom(4).hex()
        wrapper.start(str(path), by_itself=attempt)
        status = wrapper.serve()
        if status == 0 or not steps.failed(path, wrapper.step, attempt):
            return status
        wrapper.forget()


def _launched(journal: Journal | None, path: str, step: str) -> None:
    """Note that a step goes on from a generation; a note follows where that fails."""
    from pycr.again import note

    note(journal, "restored", step=step, path=path)


def leave_done(step: str, key: str) -> None:
    """Note that the step has ended with 0."""
    from pycr import again
    from pycr.errors import PycrError

    try:
        journal = again.journal_of(int(os.environ["SLURM_JOB_ID"]))
        if journal is not None:
            journal.append("done", step=step, key=key)
    except PycrError as error:
        say(f"couldn't note that the step has ended, it may be run again: {error}")
