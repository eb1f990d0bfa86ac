# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr drain`: the jobs of two users leave two nodes and go on elsewhere; what cannot says why."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from typing import Any

import pytest

from tests.login import Login, until
from tests.slurm.test_callbacks import PACKAGE

NODES, OTHERS = "n[2-3]", "n[0-1]"
REMAINING, INTERRUPTED = 17, 130
SLOW = """
import os, time, pycr
def before():
    open("asked", "w").close()
    while not os.path.exists("never"):
        time.sleep(0.05)
pycr.on_checkpoint(before=before)
open("out", "w").write("ready")
time.sleep(1000)
"""


class Place:
    """The jobs of alice and bob on the nodes that are to be drained, by a name each."""

    def __init__(self, alice: Login, bob: Login) -> None:
        self.alice, self.bob = alice, bob
        self.root = Login(alice.cluster, "root", "n0", alice.place)
        self.jobs: dict[str, int] = {}

    def state(self, nodes: str, state: str) -> None:
        word = [] if state == "resume" else ["reason=test"]
        self.root.run("scontrol", "update", f"nodename={nodes}", f"state={state}", *word)

    def submit(self, who: Login, name: str, line: str, *options: str) -> None:
        """Submit a script that works in a directory of this name."""
        tick = who.victim("tick.py")
        text = f"#!/bin/bash\nmkdir -p {name}; cd {name}\n{line.format(tick=tick)}\n"
        words = ["--parsable", "-n1", "-J", name, "-o", f"log.{name}", *options]
        done = who.run("sbatch", *words, input=text)
        assert done.returncode == 0, done.stderr
        self.jobs[name] = int(done.stdout)

    def wait(self, who: Login, *names: str) -> None:
        for name in names:
            until(f"{name} to work", partial(who.read, f"{name}/out"))

    def drain(self, who: Login, status: int, *words: str) -> Any:
        """Run it with --json; return what it says, and the jobs by their name."""
        done = who.pycr("drain", NODES, "--json", *words, timeout=200)
        assert done.returncode == status, done
        return self.named(done.stdout)

    def named(self, text: str) -> Any:
        said = json.loads(text)
        names = {job: name for name, job in self.jobs.items()}
        said["jobs"] = {names[row["job"]]: row for row in said["jobs"]}
        return said

    def where(self, name: str) -> str:
        """Return the node that a job runs on."""
        words = ["squeue", "-h", "-t", "R", "-j", str(self.jobs[name]), "-o", "%N"]
        return self.root.run(*words).stdout.strip()


@pytest.fixture
def place(alice: Login, bob: Login) -> Any:
    made = Place(alice, bob)
    made.state(OTHERS, "drain")
    yield made
    made.state("n[0-3]", "resume")


def test_drain(place: Place) -> None:
    """Looked at by each, interrupted, then carried out by root; then what was left."""
    alice, bob, root = place.alice, place.bob, place.root
    (alice.place / "slow.py").write_text(SLOW)
    slow = f"PYTHONPATH={PACKAGE} srun --cr python3 ../slow.py"
    place.submit(alice, "slow", slow)  # the first one: an interrupt finds the others waiting
    place.submit(alice, "wrapped", "srun {tick} > out 2>/dev/null", "--cr")
    place.submit(bob, "theirs", "srun --cr {tick} > out 2>/dev/null")
    place.submit(alice, "plain", "srun sh -c 'echo > out; sleep 1000'")
    place.submit(bob, "kept", "echo > out; exec sleep 1000", "--no-requeue")
    place.submit(bob, "array", "echo > out; exec sleep 1000", "--array=1")
    sleeper = alice.popen("srun", "-J", "bare", "-n1", "sleep", "1000")
    place.wait(alice, "slow", "wrapped", "plain")
    place.wait(bob, "theirs", "kept", "array")
    words = ["squeue", "-h", "-t", "R", "-n", "bare,array", "-o", "%j %A"]
    found = until("both", lambda: (f := root.run(*words).stdout.split()) and len(f) == 4 and f)
    place.jobs.update({found[0]: int(found[1]), found[2]: int(found[3])})
    place.state(OTHERS, "resume")

    look(place)
    process = root.popen(
        "pycr", "drain", NODES, "--only-jobs", "--parallel", "1", "--json", own_group=True
    )
    until("it to be asked", (alice.place / "slow/asked").exists)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.count("\n")) == (INTERRUPTED, 1), (out, errors)
    jobs = place.named(out)["jobs"]
    assert jobs["slow"]["status"] == "given up", jobs
    assert jobs["theirs"]["why"] == jobs["plain"]["why"] == "interrupted before its turn"
    assert not place.named(out)["nodes"]["n2"].count("DRAIN")
    assert place.where("slow") and place.where("wrapped")
    alice.run("scancel", str(place.jobs.pop("slow")))
    until("its end", lambda: len(alice.jobs()) == 3)

    carried_out(place)
    done = root.pycr("drain", NODES, "--vacate-steps", "--reason", "test", timeout=200)
    assert done.returncode == REMAINING, done
    line = next(
        row for row in done.stdout.splitlines() if row.split()[0] == str(place.jobs["bare"])
    )
    assert line.split()[1:3] == ["alice", "vacated"], done.stdout
    assert sleeper.wait(30) == 137
    for name in ("plain", "kept", "array"):
        root.run("scancel", str(place.jobs[name]))
    states = ["sinfo", "-h", "-N", "-n", NODES, "-o", "%T"]
    until("them to be drained", lambda: set(root.run(*states).stdout.split()) == {"drained"})
    done = root.pycr("drain", NODES)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"no job on {NODES}\nn2: ")
    goes_on(place)


def look(place: Place) -> None:
    """--dry-run changes nothing, and shows a user their own."""
    for who, names, others in (
        (place.root, set(place.jobs), 0),
        (place.bob, {"theirs", "kept", "array"}, 4),
    ):
        said = place.drain(who, 0, "--dry-run")
        assert (set(said["jobs"]), said["others"], said["nodes"]) == (names, others, {})
        verbs = {name: row["verb"] for name, row in said["jobs"].items()}
        assert verbs["theirs"] == "requeue" and verbs["array"] == verbs["kept"] == ""
    text = place.alice.pycr("drain", NODES, "--dry-run", "--vacate-steps").stdout
    assert text.count("would requeue") == 3 and text.count("would vacate") == 1, text
    assert "3 jobs of other users: only root takes those off" in text
    assert "DRAIN" not in place.root.run("scontrol", "show", "node", NODES).stdout
    done = place.alice.pycr("drain", "n[8-9]")
    assert done.returncode == 14 and done.stderr.count("\n") == 1, done


def carried_out(place: Place) -> None:
    """What can be requeued is, by its owner; of the rest it is said why not."""
    said = place.drain(place.root, REMAINING, "--reason", "test")
    assert all("DRAIN" in state for state in said["nodes"].values()), said["nodes"]
    jobs = said["jobs"]
    for name, who in (("wrapped", place.alice), ("theirs", place.bob)):
        assert jobs[name]["status"] == "done" and jobs[name]["size"] > 1 << 20, jobs[name]
        shared = place.root.cluster.shared
        made = shared / os.path.relpath(jobs[name]["path"], "/shared")
        assert made.stat().st_uid == who.place.stat().st_uid
        home = shared / "home" / who.user
        assert not [path for path in home.rglob("*") if path.lstat().st_uid == 0]
    for name, why in (
        ("plain", "--cr"), ("kept", "may not be requeued"), ("array", "job arrays"),
        ("bare", "no batch script"),
    ):  # fmt: skip
        assert jobs[name]["status"] == "left" and why in jobs[name]["why"], jobs[name]
        assert place.where(name), name


def grows(who: Login, file: str, size: int) -> bool:
    return len(who.read(file)) > size


def goes_on(place: Place) -> None:
    """What was requeued runs on the other nodes, to its end, with no number left out."""
    for name, who in (("wrapped", place.alice), ("theirs", place.bob)):
        node = until("it to run again", partial(place.where, name), 60)
        assert node in ("n0", "n1")
        until("it to go on", partial(grows, who, f"{name}/out", len(who.read(f"{name}/out"))))
        (who.place / name / "stop").touch()
    until("their ends", lambda: not place.alice.jobs() and not place.bob.jobs())
    for name, who in (("wrapped", place.alice), ("theirs", place.bob)):
        lines = who.read(f"{name}/out").split("\n")[:-2]
        assert lines == [f"0 {number}" for number in range(len(lines))]
