# SPDX-License-Identifier: GPL-2.0-or-later
"""The file system of the images is full at the fourth checkpoint: it fails and says so, the job
runs on, the third stays whole; with room again the next is made, and a requeue goes on from it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from tests.login import Login, until
from tests.proofs.counting import INTERVAL, Counting
from tests.proofs.job import same

COUNT = 900
NODE = "n0"  # of all its lives: the file system is mounted on one
PLACE = "/srv/proofs"
SIZE = 128  # MiB


def run(alice: Login, out: Path) -> str:
    """Fill the disk under a job."""
    node = alice.cluster.node(NODE)
    node.run(["mkdir", "-p", PLACE], check=True)
    node.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "proofs", PLACE], check=True)
    try:
        node.run(["install", "-d", "-o", "alice", "-m", "700", f"{PLACE}/images"], check=True)
        return on(alice, out, Path(f"/proc/{alice.cluster.state.pid(NODE)}/root{PLACE}"))
    finally:
        alice.cancel_all()
        node.run(["umount", PLACE])


def on(alice: Login, out: Path, disk: Path) -> str:
    """Do it. disk: as this machine sees it."""
    home = f"--checkpoint-dir={PLACE}/images"
    words = ["-N1", f"--nodelist={NODE}", home, "--cr-keep=9"]
    whole = Counting(alice, "whole", COUNT, "-N1", f"--nodelist={NODE}", checkpoints=False)
    job = Counting(alice, "full", COUNT, *words)
    third = job.committed(3)[-1]
    fill(disk / "ballast", room=256 << 10)
    failed = until("the fourth to fail", lambda: job.journal("failed"), 30)
    words_of_it = failed[0]["message"]
    assert "256 KiB are free: remove old ones" in words_of_it, failed
    before = job.progress()
    asked = job.login.pycr("error", job.job_id)
    assert words_of_it in asked.stdout, asked
    status = job.login.pycr("status", job.job_id)
    assert words_of_it[:40] in status.stdout, status
    assert words_of_it in notes(job), notes(job)
    assert len(job.journal("committed")) == 3
    path = disk / Path(third["path"]).relative_to(PLACE)
    assert [each.name for each in sorted(path.parent.glob("[0-9]*"))] == ["0001", "0002", "0003"]
    checked = job.login.pycr("verify", third["path"])
    assert checked.returncode == 0, checked
    until("it to run on", lambda: job.progress() > before)
    second = until("the fifth to fail too", lambda: job.journal("failed")[1:], 30)
    late = second[0]["time"] - failed[0]["time"]
    assert abs(late - INTERVAL) < 2, f"the next attempt was {late:.1f} s after the first"
    (disk / "ballast").unlink()
    fourth = job.committed(4)[-1]
    assert not list(path.parent.glob(".*.tmp*")), list(path.parent.iterdir())
    assert job.login.pycr("error", job.job_id).stdout != asked.stdout
    done = job.login.run("scontrol", "requeue", job.job_id)
    assert done.returncode == 0, done.stderr
    job.life(1)
    job.went_on()
    same(job.over(120), whole.over(90))
    totals = job.keep(out, "full")
    assert totals["lives"] == 2 and totals["unsaved"] == 0, totals
    assert totals["failed"] == len(job.journal("failed")), totals
    return (
        f"{totals['failed']:.0f} failed ({words_of_it}); the next after"
        f" {fourth['time'] - failed[0]['time']:.1f} s"
    )


def fill(ballast: Path, room: int) -> None:
    """Leave only so many bytes of a file system."""
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"\0" * (1 << 20)):
            pass
    os.truncate(ballast, ballast.stat().st_size - room)


def notes(job: Counting) -> str:
    return "\n".join(each["text"] for each in job.journal("note"))
