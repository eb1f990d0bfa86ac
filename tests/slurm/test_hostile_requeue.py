# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user puts in the place of a requeue file, a generation or what is late of a batch job.

slurmstepd's plugin reads the first two and must not hang there: the job goes on right, or ends with
125 and a line; it never begins anew. All jobs of a test wait for Slurm at the same time.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.login import Login, until
from tests.slurm import forge
from tests.slurm.test_failures_batch import Batch, kept_in_queue

SCRIPT = """#SBATCH --mem=20
echo begin
touch up
until test -e go; do sleep 0.1; done
echo over"""
BOB = 1002
Cases = dict[str, tuple[Callable[[Path], None], str]]


class Life(Batch):
    """A batch job in a directory of its own, which says `begin` once and `over` at its end."""

    def __init__(self, user: Login, name: str) -> None:
        place = user.place / name
        place.mkdir()
        os.chown(place, 1001, 1001)
        super().__init__(
            Login(user.cluster, user.user, user.node, place), SCRIPT, "--checkpoint-dir=.",
            "--requeue", "--open-mode=append",
        )  # fmt: skip
        self.name = name

    @property
    def top(self) -> Path:
        return self.login.place / f"{self.job}.batch"

    def is_over(self) -> bool:
        return self.field("JobState") in ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL")


def fifo(path: Path) -> None:
    clear(path)
    os.mkfifo(path, 0o666)


def device(path: Path) -> None:
    clear(path)
    os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))


def directory(path: Path) -> None:
    clear(path)
    path.mkdir(mode=0o700)
    os.chown(path, 1001, 1001)


def huge(path: Path) -> None:
    clear(path)
    path.touch()
    os.chown(path, 1001, 1001)
    os.truncate(path, 1 << 40)


def link(path: Path) -> None:
    """To what another user has in its place, with all that was in it, for everybody to read."""
    other = path.parent.parent / "bobs"
    if path.is_file():
        other.write_bytes(path.read_bytes())
    else:
        shutil.copytree(path, other)
    for each in (other, *other.rglob("*")):
        os.chown(each, BOB, BOB)
        each.chmod(0o755)
    clear(path)
    path.symlink_to(os.path.relpath(other, path.parent))


def given_away(path: Path) -> None:
    os.chown(path, BOB, BOB)
    path.chmod(0o755)


def clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rename(path.parent.parent / f"old-{path.name}")
    with suppress(FileNotFoundError):
        path.unlink()


def begun(user: Login, cases: Cases, place: str) -> list[Life]:
    """Start a job for each case and one more, requeue it from a checkpoint, and put what the case
    has in the place of a file of that."""
    lives = [Life(user, name) for name in (*cases, "as it is")]
    for life in lives:
        until("it to run", (life.login.place / "up").exists)
    with kept_in_queue(user):
        for life in lives:
            done = life.login.pycr("requeue", life.job, "--image-dir", ".")
            assert done.returncode == 0, (life.name, done.stderr)
            assert life.field("JobState") == "PENDING", life.name
            if life.name in cases:
                cases[life.name][0](life.top / place)
    return lives


def ends(lives: list[Life]) -> dict[str, tuple[str, str]]:
    """Return how each ended, and what it said."""
    for life in lives:
        (life.login.place / "go").touch()
    found = {}
    give_up = time.monotonic() + 200
    for life in lives:
        until(f"{life.name} to end", life.is_over, max(1.0, give_up - time.monotonic()))
        state = f"{life.field('JobState')} {life.field('ExitCode')}"
        found[life.name] = (state, life.login.read("log"))
    return found


DAMAGED = "cr: couldn't requeue from a checkpoint: its requeue file is damaged"
LINK = "requeue: Too many levels of symbolic links"
REQUEUE: Cases = {
    "FIFO": (fifo, DAMAGED),
    "device": (device, DAMAGED),
    "directory": (directory, DAMAGED),
    "huge": (huge, DAMAGED),
    "link": (link, LINK),
    "given away": (given_away, DAMAGED),
}
GENERATION: Cases = {
    "FIFO": (fifo, "Not a directory"),
    "device": (device, "Not a directory"),
    "directory": (directory, "no whole checkpoint in it"),
    "huge": (huge, "Not a directory"),
    "link": (link, "Not a directory"),
    "given away": (given_away, "another user's"),
}


@pytest.mark.parametrize("place", ["requeue", "0001"])
def test_before_it_starts_again(alice: Login, place: str) -> None:
    cases = REQUEUE if place == "requeue" else GENERATION
    found = ends(begun(alice, cases, place))
    assert found.pop("as it is") == ("COMPLETED 0:0", "begin\nover\n")
    for name, (state, log) in found.items():
        assert state == "FAILED 125:0", (name, log)
        assert cases[name][1] in log, (name, log)
        assert (log.count("begin"), log.count("over")) == (1, 0), (name, log)
    for node in ("n0", "n1", "n2", "n3"):
        done = alice.run("sinfo", "-h", "-n", node, "-o", "%T")
        assert done.stdout.strip() in ("idle", "mixed", "allocated"), done.stdout


LATE = """#SBATCH --mem=60
srun --cr --mem=20 -n1 sh -c 'until test -e go; do sleep 0.1; done; echo step'
echo status $?"""


@pytest.mark.parametrize("kind", [fifo, device, directory, huge, link, given_away])
def test_what_is_late(alice: Login, kind: Callable[[Path], None]) -> None:
    """In place of what its srun_cr had still to deliver: it is not waited for, and not followed."""
    batch = Batch(alice, LATE, "--checkpoint-dir=.")
    until("its step", alice.steps)
    until("it to run", lambda: batch.pycr("create").returncode == 0)
    done = batch.pycr("vacate")
    assert done.returncode == 0, done.stderr
    generation = max((alice.place / f"{batch.job}.batch").glob("0*"))
    late = generation / "late"
    late.mkdir(mode=0o700, exist_ok=True)
    os.chown(late, 1001, 1001)
    for pid in forge.manifest_of(generation).tasks[0].pids:
        path = late / str(pid)
        path.write_bytes(b"late")
        kind(path)
    (alice.place / "go").touch()
    done = alice.pycr("restart", "--image-dir", ".", batch.job, "--parsable")
    assert done.returncode == 0, done.stderr
    batch.job = done.stdout.strip()
    assert batch.ended() == "COMPLETED 0:0", alice.read("log")
    assert alice.read("log").endswith("step\nstatus 0\n")
