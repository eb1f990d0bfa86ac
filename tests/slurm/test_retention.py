# SPDX-License-Identifier: GPL-2.0-or-later
"""What a site allows, how many checkpoints stay, and what pycr gc removes."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import time
from typing import Any

from tests.login import Login, until
from tests.slurm.test_failures import PLUGIN, assert_fails, plugstack

BIND = """
import socket, sys
held = []
for number in range(2):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].bind(f"\\0pycr-slot-{number}")
print("held", flush=True)
sys.stdin.read()
"""
GROWING = """
import os, time
import pycr
held = []
pycr.on_checkpoint(before=lambda: held.append(os.urandom(6 << 20)))
open("ready", "w").close()
while True:
    time.sleep(0.1)
"""


class Counting:
    """A step of two tasks on n0 and n1, of a job of the user's."""

    def __init__(self, alice: Login) -> None:
        self.alice = alice
        command = [alice.victim("count.py"), "1000000"]
        self.process = alice.popen("srun", "-N2", "-n2", "-wn0,n1", "-oout", *command)
        self.step = alice.step()
        self.place = alice.place / self.step
        until("a checkpoint", lambda: self.create().returncode == 0)

    def create(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.alice.pycr("create", self.step, "--image-dir", ".", *words)

    def path(self, number: int) -> str:
        return f"{self.alice.dir}/{self.step}/{number:04}"

    def left(self) -> list[int]:
        return sorted(int(path.name) for path in self.place.iterdir() if path.name != ".lock")

    def assert_runs_on(self) -> None:
        size = (self.alice.place / "out").stat().st_size
        until("the tasks to go on", lambda: (self.alice.place / "out").stat().st_size > size + 200)


def test_keep_and_limits(alice: Login, cluster: Any) -> None:
    """Generations that stay; then each limit, with its message, and the step runs on."""
    counting = Counting(alice)
    step, create = counting.step, counting.create
    for _ in range(3):
        assert create().returncode == 0
    assert counting.left() == [1, 2, 3, 4], "nobody has asked"
    made = json.loads(create("--keep=2", "--json").stdout)
    assert [each["removed"] for each in made] == [[counting.path(each) for each in (3, 2, 1)]]
    assert counting.left() == [4, 5]
    done = create(f"--keep-size={made[0]['size'] * 3 // 2}")
    assert done.stdout.splitlines()[1:] == [f"{counting.path(each)}: removed" for each in (5, 4)]

    with plugstack(cluster, "n0", f"{PLUGIN} max_size=1 allowed_dirs=/home:{alice.dir}"):
        assert_fails(create(), 8, f"step {step}: the checkpoint needs ", "the site allows 1.0 MiB")
        alice.run("ln", "-s", "/tmp", "away")
        done = alice.pycr("create", step, "--image-dir", "away")
        assert_fails(done, 8, "image directory away: the site allows only /home and /shared/")
        done = alice.pycr("doctor")
        assert done.returncode == 7
        assert "/checkpoint: the site allows only /home and /shared/" in done.stdout
    counting.assert_runs_on()
    assert counting.left() == [6]
    # What grows behind the look is refused when all is written.
    alice.popen("srun", "-n1", "/opt/pycr/bin/python3", "-c", GROWING)
    until("its callback", lambda: (alice.place / "ready").exists())
    step = next(each for each in alice.steps() if each != step)
    assert alice.pycr("create", step, "--image-dir", ".").returncode == 0
    for verb in ("create", "vacate"):
        size = json.loads(alice.pycr("create", step, "--image-dir", ".", "--json").stdout)[0][
            "size"
        ]
        limit = (size >> 20) + 3
        with plugstack(cluster, "n0", f"{PLUGIN} max_size={limit}"):
            done = alice.pycr(verb, step, "--image-dir", ".")
        assert_fails(
            done, 8, f"step {step}: the checkpoint has ", f"allows {limit}.0 MiB (max_size"
        )
        assert step in alice.steps()
    assert sorted(path.name for path in (alice.place / step).iterdir()) == [
        ".lock",
        "0001",
        "0002",
        "0003",
    ]


def test_slots(alice: Login, cluster: Any) -> None:
    """All are taken: a checkpoint waits with nothing frozen, and not for ever."""
    counting = Counting(alice)
    hog = cluster.node("n1").popen(["python3", "-c", BIND], user="bob", stdin=subprocess.PIPE)
    place = cluster.shared / ".pycr-slots"
    try:
        assert hog.stdout.readline() == "held\n"
        with plugstack(cluster, "n0", f"{PLUGIN} node_checkpoints=2 max_wait=14"):
            began = time.monotonic()
            done = counting.create()
            assert done.returncode == 0 and time.monotonic() - began > 5
            where = "on node n1 (node_checkpoints in plugstack.conf): checkpointed all the same"
            assert (
                done.stderr == f"pycr: warning: step {counting.step}: no slot came free {where}\n"
            )
        with plugstack(cluster, "n0", f"{PLUGIN} node_checkpoints=3"):
            done = counting.create()
            assert (done.returncode, done.stderr) == (0, "")
            # One's end is what another waits for.
        with plugstack(cluster, "n0", f"{PLUGIN} node_checkpoints=2"):
            waiting = alice.popen("pycr", "create", counting.step, "--image-dir", ".")
            until("it to begin", lambda: list(counting.place.glob(".new-*")))
            counting.assert_runs_on()
            assert waiting.poll() is None
            hog.stdin.close()
            assert waiting.wait(30) == 0
            assert waiting.communicate()[1] == ""

        place.mkdir(0o755)
        for name in "12":
            (place / name).touch()
            (place / name).chmod(0o666)
        with plugstack(cluster, "n0", f"{PLUGIN} fs_checkpoints=1 node_checkpoints=1"):
            with open(place / "1") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                waiting = alice.popen("pycr", "create", counting.step, "--image-dir", ".")
                until("it to begin", lambda: list(counting.place.glob(".new-*")))
                counting.assert_runs_on()
                assert waiting.poll() is None
            assert waiting.wait(30) == 0
            assert waiting.communicate()[1] == ""
            # A batch job's script and steps on a node are one.
            command = "srun --cr -n1 --exact sleep 1000"
            (alice.place / "job.sh").write_text(f"#!/bin/bash\n{command} &\n{command}\n")
            job = alice.run("sbatch", "--parsable", "--cr", "-n2", "-N1", "job.sh").stdout.strip()
            until("its steps", lambda: {f"{job}.0", f"{job}.1"} <= set(alice.steps()))
            done = alice.pycr("create", job, "--image-dir", ".", "--max-wait", "20")
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
    finally:
        hog.terminate()
        for stream in (hog.stdin, hog.stdout, hog.stderr):
            stream.close()
        hog.wait(30)
        shutil.rmtree(place, ignore_errors=True)


def finished(login: Login, end: str) -> tuple[str, str]:
    """Checkpoint a step of an own job three times, end the job, and return step and directory."""
    login.victim("count.py")
    (login.place / "images").mkdir(exist_ok=True)
    login.cluster.node("n0").run(["chown", f"{login.user}:", f"{login.dir}/images"], check=True)
    text = f"#!/bin/bash\nsrun -n1 {login.dir}/count.py 1000000\nexit 0\n"
    (login.place / "job.sh").write_text(text)
    words = ["--parsable", "-n1", "-oout", "--checkpoint-dir=images", "job.sh"]
    job = login.run("sbatch", *words).stdout.strip()
    step = f"{job}.0"
    until("a checkpoint", lambda: login.pycr("create", step).returncode == 0)
    for _ in range(2):
        assert login.pycr("create", step).returncode == 0
    login.run("scancel", *end.split(), job if "-s" not in end else step)
    until("its end", lambda: int(job) not in login.jobs())
    return step, f"{login.dir}/images"


def test_gc(alice: Login, bob: Login, cluster: Any) -> None:
    """For a user, then for root over all: each job by its end, each user's as that user."""
    well, images = finished(alice, "-s KILL")  # the script goes on, to its end: COMPLETED
    broken, bobs = finished(bob, "")
    before = sorted(path for path in alice.place.rglob("*"))
    said = alice.pycr("gc", "--dry-run", images).stdout.splitlines()
    why = f"would be removed: job {well.split('.')[0]} has completed ("
    assert [line.split(why)[0] for line in said[:-1]] == [
        f"{images}/{well}/000{number}: " for number in (3, 2, 1)
    ]
    assert said[-1].startswith("alice: 3 things, ") and said[-1].endswith(" to remove")
    assert sorted(alice.place.rglob("*")) == before
    # Another's are none of hers, nor is what her links lead to.
    alice.run("ln", "-s", f"{bobs}/{broken}", f"{images}/{broken}")
    alice.run("mkdir", "-p", f"{images}/deep/5.0")
    assert alice.pycr("gc", "--dry-run", bobs).returncode == 8

    root = Login(cluster, "root", "n0", alice.place)
    done = root.pycr("gc")
    assert (done.returncode, done.stderr) == (
        2,
        "pycr: as root, name the directories to look below, as pycr gc /home\n",
    )
    rows = json.loads(root.pycr("gc", "--json", "--dry-run", "/shared").stdout)
    mine = {f"{images}/{well}/000{number}" for number in (1, 2, 3)}
    his = {f"{bobs}/{broken}/000{number}" for number in (1, 2)}
    found = {(row["user"], row["path"]) for row in rows}
    assert {path for user, path in found if user == "alice"} >= mine
    assert {path for user, path in found if user == "bob"} >= his
    assert f"{bobs}/{broken}/0003" not in {path for _, path in found}
    done = root.pycr("gc", f"{alice.dir}/..")
    assert done.returncode == 0, done.stderr
    assert not (alice.place / "images" / well).exists()
    assert [path.name for path in (bob.place / "images" / broken).glob("0*")] == ["0003"]
    assert done.stdout.splitlines()[-2].startswith("alice: 3 things, ")
    assert done.stdout.splitlines()[-1].startswith("bob: 2 things, ")
    assert root.pycr("gc", "--older-than=1h", f"{alice.dir}/..").stdout == ""
    assert alice.pycr("gc", images).stdout == ""
    bob.run("touch", "-d", "@0", f"{bobs}/{broken}/0003")
    assert bob.pycr("gc", "--older-than=1s", bobs).returncode == 0
    assert not (bob.place / "images" / broken).exists()
