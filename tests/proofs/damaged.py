# SPDX-License-Identifier: GPL-2.0-or-later
"""The newest image of a requeued job is damaged: it is set aside with its reason, and the job goes
on from the one before, with one interval more lost than otherwise.

Of two nodes each: a bit of the memory is another, the manifest is cut off, half of the files are
gone; of a whole script, and of a step.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from pycr.keeper.plan import STARTUP
from tests.login import Login, until
from tests.proofs.counting import INTERVAL, TICK, Counting
from tests.proofs.job import same
from tests.slurm.test_again import damage as flip

COUNT = 600
KEEP = "--cr-keep=9"  # what was set aside is looked at in the end


def truncate(generation: Path) -> None:
    """Cut its manifest off in the middle."""
    path = generation / "manifest.json"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def halve(generation: Path) -> None:
    """Remove every second of its files, as they come in the directory."""
    every = [each for each in sorted(generation.glob("**/*")) if each.is_file()]
    for path in [each for each in every if each.parent != generation][::2]:
        path.unlink()  # `pycr ls` shows what has a manifest


# What it does, and what is said of it.
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "bit": (flip, "its checksum is not the manifest's"),
    "manifest": (truncate, "manifest.json: "),
    "half": (halve, "No such file or directory|missing|not there"),
}


def run(alice: Login, out: Path) -> str:
    """Damage six jobs' newest."""
    jobs = []
    for step in (False, True):
        kind = "step" if step else "script"
        whole = Counting(alice, kind, COUNT, "-N2", step=step, checkpoints=False)
        for name in DAMAGES:
            job = Counting(alice, f"{kind}-{name}", COUNT, "-N2", "--exclude=n0", KEEP, step=step)
            jobs.append((name, job, whole))
    broken = [(*each, hurt(each[1], DAMAGES[each[0]][0])) for each in jobs]
    said = []
    for name, job, whole, (newest, before, ended) in broken:
        same(job.over(120), whole.over(90))
        said.append(judge(job, DAMAGES[name][1], newest, before, ended, out))
    return "; ".join(said)


def hurt(job: Counting, damage: Callable[[Path], None]) -> tuple[str, str, float]:
    """Have Slurm put it back, and damage its newest image while it waits.

    Return the newest, the one before, and when the job was ended.
    """
    job.committed(3)
    done = job.login.run("scontrol", "requeuehold", job.job_id)
    assert done.returncode == 0, done.stderr
    ended = time.time()
    until("it to wait", job.waits, 60)
    *_, before, newest = [each["path"] for each in job.journal("committed")]
    damage(job.home() / Path(newest).name)
    done = job.login.run("scontrol", "release", job.job_id)
    assert done.returncode == 0, done.stderr
    return newest, before, ended


def judge(job: Counting, why: str, newest: str, before: str, ended: float, out: Path) -> str:
    """See what was done about it; keep its figures, and return them."""
    name = job.login.place.name
    assert job.journal("restored")[-1]["path"] == before, job.journal("restored")
    notes = [each["text"] for each in job.journal("note") if "is set aside: " in each["text"]]
    assert len(notes) == 1 and notes[0].startswith(f"{newest} is set aside: "), notes
    assert re.search(why, notes[0]), notes
    rows = {each["path"]: each["set_aside"] for each in job.login.pycr_json("ls")}
    assert re.search(why, rows[newest]), rows
    assert not rows.get(before), rows
    shown = job.login.pycr("ls").stdout
    assert re.search(rf"{job.target}.*{Path(newest).name}.*set aside", shown), shown
    (made,) = [each for each in job.journal("committed") if each["path"] == before]
    moment = made["time"] - made["seconds"]
    work = max(job.lost(0), job.lost(1)) * TICK
    most = 2 * INTERVAL + job.slowest() + STARTUP
    assert 0.6 * (ended - moment) <= work <= min(most, ended - moment + 1), (work, ended - moment)
    totals = job.keep(out, name)
    assert totals["unsaved"] == 0 and totals["lives"] == 2, totals
    # Until Slurm has it ended; and on a busy machine a number takes longer than it sleeps.
    assert work - 1 <= totals["lost"] <= ended - moment + 3, (totals, work, ended - moment)
    return f"{name}: {work:.1f} s lost (by pycr report {totals['lost']:.1f} s)"
