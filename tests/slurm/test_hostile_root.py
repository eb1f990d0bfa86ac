# SPDX-License-Identifier: GPL-2.0-or-later
"""Root among a user's checkpoints: what root's privilege must not do for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.login import Login, until
from tests.slurm import forge

SCRIPT = """#!/bin/bash
#SBATCH WANTED
touch ready
until test -e go; do sleep 0.05; done
id -u > who
echo "$HOME" >> who
"""


def root_beside(user: Login) -> Login:
    return Login(user.cluster, "root", "n0", user.place)


def vacated_job(user: Login, wanted: str = "--nice=0") -> tuple[str, Path]:
    """Submit the script, vacate it; return the job and its generation."""
    (user.place / "job.sh").write_text(SCRIPT.replace("WANTED", "--nice=0"))
    done = user.run("sbatch", "--parsable", "job.sh")
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    until("the script to run", lambda: (user.place / "ready").exists())
    done = user.pycr("vacate", job, "--image-dir", ".")
    assert done.returncode == 0, done.stderr
    generation = user.place / f"{job}.batch/0001"
    (generation / "task.0/slurm_script").write_text(SCRIPT.replace("WANTED", wanted))
    forge.seal(generation)
    return job, generation


def test_its_job_is_the_owners_own(alice: Login) -> None:
    job, _ = vacated_job(alice)
    done = root_beside(alice).pycr("restart", "--image-dir", ".", job)
    assert done.returncode == 0, done.stderr
    fields = alice.run("scontrol", "-o", "show", "job", done.stdout.split()[-1]).stdout.split()
    assert "UserId=alice(1001)" in fields
    (alice.place / "go").touch()
    until("it to end", lambda: len(alice.read("who").split()) == 2)
    uid, home = alice.read("who").split()
    assert (uid, home) == ("1001", alice.sh("echo ~").stdout.strip())


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("--nice=-5000", "Invalid --nice value"),
        ("--uid=root", "--uid only permitted by root user"),
    ],
)
def test_a_users_script_does_not_ask_with_roots_voice(
    alice: Login, wanted: str, words: str
) -> None:
    job, _ = vacated_job(alice, wanted)
    done = root_beside(alice).pycr("restart", "--image-dir", ".", job)
    assert done.returncode == 14
    assert words in done.stderr
    until("no job, but the old one's end", lambda: not alice.jobs())


def test_root_reads_no_users_checkpoint_itself(alice: Login) -> None:
    """ls, show and rm act as who runs them, and root's checkpoints these are not."""
    job, generation = vacated_job(alice)
    root = root_beside(alice)
    for verb in ("show", "rm"):
        done = root.pycr(verb, f"{job}.batch")
        assert done.returncode == 4, done.stderr
        assert "it is another user's" in done.stderr
    done = root.pycr("ls", ".")
    assert (done.returncode, "another user's" in done.stdout) == (0, True)
    assert (generation / "manifest.json").exists()


def test_names_do_not_reach_roots_terminal_raw(alice: Login) -> None:
    place = alice.place / "7.0"
    place.mkdir(mode=0o700)
    (place / ".new-\x1b[2J\nroot: yes").mkdir()
    done = root_beside(alice).pycr("restart", "7.0")
    assert done.returncode == 10
    assert "\x1b" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_directory_that_leads_to_root_files_is_not_removed(alice: Login) -> None:
    """rm as root, where alice has put links into root's own checkpoint directory."""
    victim = alice.place / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    step = alice.place / "8.0"
    step.mkdir(mode=0o700)  # root's, in a directory of alice's
    (step / "0001").mkdir(mode=0o700)
    (step / "0001/manifest.json").touch()
    (step / "0001/task.0").symlink_to(victim)
    (step / ".new-0002-x").symlink_to(victim)
    (step / ".lock").symlink_to(victim / "kept")
    done = root_beside(alice).pycr("rm", "8.0", "--image-dir", ".")
    assert done.returncode == 8, done.stderr  # its lock is no file
    (step / ".lock").unlink()
    assert root_beside(alice).pycr("rm", "8.0", "--image-dir", ".").returncode == 0
    assert (victim / "kept").exists()
    assert not step.exists()
