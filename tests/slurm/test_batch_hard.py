# SPDX-License-Identifier: GPL-2.0-or-later
"""Batch jobs where something is slow, is killed, or comes twice: no line is lost or doubled."""

from __future__ import annotations

import signal
from functools import partial

import pytest

from tests.login import Login, until
from tests.slurm.test_failures_batch import COUNT, Batch

LINES = 60000
FAST = f"""
import os, time
for number in range({LINES}):
    os.write(1, b"%d\\n" % number)
while not os.path.exists("go"):
    time.sleep(0.05)
"""
SLOW = f"""
import os, sys, time
seen = 0
for number, line in enumerate(sys.stdin):
    if number % 500 == 0 and not os.path.exists("go"):
        time.sleep(0.05)
    if int(line) != number:
        sys.exit(f"line {{number}} is {{line!r}}")
    seen += 1
    if number % 2000 == 0:
        print("read", number, flush=True)
print("whole" if seen == {LINES} else f"only {{seen}}", flush=True)
"""


def slow_batch(alice: Login) -> Batch:
    """Return a job whose step writes all at once to a reader that takes its time until `go`."""
    (alice.place / "slow.py").write_text(SLOW)
    (alice.place / "fast.py").write_text(FAST)
    return Batch(alice, "srun --cr -n1 python3 fast.py | python3 slow.py")


def has_read(alice: Login, text: str) -> bool:
    """Tell whether the reader has come so far."""
    return text in alice.read("log")


def goes_on(batch: Batch, *words: str) -> None:
    """Restart it; it is the new job from here on."""
    done = batch.login.pycr("restart", "--image-dir", ".", batch.job, "--parsable", *words)
    assert done.returncode == 0, done.stderr
    batch.job = done.stdout.strip()


def test_slow_reader_and_vacate(alice: Login) -> None:
    """What is on its way through srun when its tasks are ended comes out in the next life."""
    batch = slow_batch(alice)
    for text in ("read 4000\n", "read 20000\n"):
        until(text, partial(has_read, alice, text))
        until("it to run", lambda: batch.field("JobState") == "RUNNING")
        done = batch.pycr("vacate")
        assert done.returncode == 0, done.stderr
        goes_on(batch)
    (alice.place / "go").touch()
    assert batch.ended() == "COMPLETED 0:0", alice.read("log")
    assert alice.read("log").endswith("whole\n")


def test_slow_reader_and_create(alice: Login) -> None:
    """As much is in a checkpoint after which the job had gone on, and was lost.

    In whole lines: half of one stays in slurmstepd, which nobody can ask for it.
    """
    batch = slow_batch(alice)
    until("some lines", partial(has_read, alice, "read 4000\n"))
    done = batch.pycr("create")
    assert done.returncode == 0, done.stderr
    alice.run("scancel", batch.job)
    batch.ended()
    goes_on(batch)
    (alice.place / "go").touch()
    assert batch.ended() == "COMPLETED 0:0", alice.read("log")
    assert alice.read("log").endswith("whole\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_behind_the_commit(alice: Login, number: signal.Signals) -> None:
    """Then there is no way back: the job ends, and all of it is there."""
    step = f"srun --cr --exact -n1 bash -c '{COUNT}' &\n"
    batch = Batch(alice, step * 3 + "wait", "-n3")
    until("all steps", lambda: len(alice.steps()) == 3)
    process = alice.popen("pycr", "vacate", batch.job, "--image-dir", ".")
    until("the commit", lambda: list(alice.place.glob("*.batch/0001/manifest.json")))
    if number == signal.SIGKILL:
        alice.run("pkill", "-KILL", "-x", "pycr")  # the tests' own process would only be its relay
        process.wait(60)
    else:
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    batch.ended()
    (row,) = alice.pycr_json("ls", ".")
    assert (row["whole"], len(row["steps"])) == (True, 3)
    (alice.place / "stop").touch()
    goes_on(batch)
    assert batch.ended().endswith("0:0")


def test_started_twice_from_one_checkpoint(alice: Login) -> None:
    """What Slurm starts again by itself goes on from there too, in a directory of its own."""
    batch = Batch(alice, f"srun --cr -n1 bash -c '{COUNT}'; echo status $?", "--checkpoint-dir=.")
    batch.runs()
    assert batch.pycr("requeue").returncode == 0
    until("it to run", lambda: batch.field("JobState") == "RUNNING")
    batch.runs()
    assert alice.run("scontrol", "requeue", batch.job).returncode == 0
    until("it to run", lambda: batch.field("Restarts") == "2")
    until("it to run", lambda: batch.field("JobState") == "RUNNING")
    until("its step", alice.steps)
    batch.runs()
    (alice.place / "stop").touch()
    assert batch.ended() == "COMPLETED 0:0"
    *numbers, last = alice.read("log").splitlines()
    assert last == "status 7"
    found = [int(line) for line in numbers if line.isdigit()]
    assert found == list(range(1, len(found) + 1))


@pytest.mark.parametrize("name", ["pycr-monitor", "srun"])
def test_killed_beside_the_script(alice: Login, name: str) -> None:
    """The script hears of it, and is not left waiting."""
    batch = Batch(alice, f"srun --cr -n1 bash -c '{COUNT}'; echo status $?; [ -e stop ] || {COUNT}")
    batch.runs()
    host = Login(alice.cluster, "root", batch.field("BatchHost"), alice.place)
    assert host.run("pkill", "-KILL", "-x", name).returncode == 0
    until("the script to hear of it", lambda: "status 137" in alice.read("log"))
    batch.runs()
    (alice.place / "stop").touch()
    assert batch.ended() == "FAILED 7:0"


@pytest.mark.parametrize("verb", ["vacate", "requeue"])
def test_coordinator_that_is_lost_behind_the_commit(alice: Login, verb: str) -> None:
    """The script's helper then does with the job what was asked for."""
    (alice.place / "bin").mkdir()
    for name, first in (("scontrol", "requeue"), ("scancel", "")):
        wrapper = alice.place / "bin" / name
        hang = f"touch {alice.dir}/asked; exec sleep 1000"
        wrapper.write_text(f'#!/bin/sh\ncase $1 in {first}*) {hang};; esac\nexec {name} "$@"\n')
        wrapper.write_text(wrapper.read_text().replace("exec sc", "exec /usr/bin/sc"))
        wrapper.chmod(0o755)
    batch = Batch(alice, COUNT)
    until("it to count", partial(has_read, alice, "5\n"))
    path = f"PATH={alice.dir}/bin:/opt/pycr/bin:/usr/bin:/bin"
    process = alice.popen("env", path, "pycr", verb, batch.job, "--image-dir", ".")
    until("Slurm to be asked", lambda: (alice.place / "asked").exists())
    alice.run("pkill", "-KILL", "-u", "alice", "-x", "pycr")
    alice.run("pkill", "-KILL", "-u", "alice", "-f", "^sleep 1000$")
    process.communicate(timeout=30)
    assert process.returncode == -9
    if verb == "vacate":
        assert batch.ended().startswith("CANCELLED ")
        done = alice.pycr("restart", "--image-dir", ".", batch.job, "--parsable")
        assert done.returncode == 0, done.stderr
        batch.job = done.stdout.strip()
    else:
        until("it to be requeued", lambda: batch.field("Restarts") == "1", 60)
    size = len(alice.read("log"))
    until("it to go on", lambda: len(alice.read("log")) > size + 10, 60)
    (alice.place / "stop").touch()
    assert batch.ended() == "FAILED 7:0"
    numbers = [int(line) for line in alice.read("log").splitlines() if line.isdigit()]
    assert numbers == list(range(1, len(numbers) + 1))
