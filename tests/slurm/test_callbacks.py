# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that want to be asked: pycr.on_checkpoint() and pycr.critical_section() in a step."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.login import Login, until

# Where the cluster's own Python finds the package that is installed for pycr's.
PACKAGE = "$(dirname $(dirname $(/opt/pycr/bin/python3 -c 'import pycr; print(pycr.__file__)')))"
REFUSED, TIMED_OUT = 9, 12


class Connected:
    """connected.py in two tasks on two nodes, and a collector on every node."""

    def __init__(self, alice: Login, *arguments: str) -> None:
        self.alice = alice
        self.socket = f"/tmp/collector.{alice.place.name}"
        collector = alice.victim("collector.py")
        for node in ("n0", "n1", "n2", "n3"):
            other = Login(alice.cluster, alice.user, node, alice.place)
            alice.started.append(other.popen(collector, self.socket, f"lines.{node}"))
            until("a collector", (alice.place / f"lines.{node}").exists)
        program = f"{alice.victim('connected.py')} {self.socket} {' '.join(arguments)}"
        self.command = f"PYTHONPATH={PACKAGE} exec {program}"

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Begin a life; return when both tasks have sent something in it."""
        seen = {rank: len(self.numbers(rank)) for rank in (0, 1)}
        process = self.alice.popen(*command)
        until("lines of both", lambda: all(len(self.numbers(r)) > seen[r] + 15 for r in (0, 1)))
        return process

    def first(self) -> subprocess.Popen[str]:
        """Begin the first life."""
        return self.start("srun", "--cr", "-N2", "-n2", "-wn0,n1", "bash", "-c", self.command)

    def numbers(self, rank: int) -> list[int]:
        """Return what a task has sent, in order of arrival on each node, nodes in order."""
        text = "".join(self.alice.read(f"lines.{node}") for node in ("n0", "n1", "n2", "n3"))
        pairs = [line.split() for line in text.splitlines()]
        return [int(number) for who, number in pairs if who == str(rank)]

    def goes_on(self) -> None:
        """Wait until both have sent more."""
        seen = [len(self.numbers(rank)) for rank in (0, 1)]
        until("more lines", lambda: all(len(self.numbers(r)) > seen[r] + 5 for r in (0, 1)))

    def stop(self) -> None:
        (self.alice.place / "stop").touch()


def test_a_connection_is_refused_without(alice: Login) -> None:
    """The control: what the callbacks are for."""
    job = Connected(alice)
    process = job.first()
    done = alice.pycr("create", alice.step())
    assert done.returncode == REFUSED, done
    job.goes_on()
    job.stop()
    assert process.wait(60) == 0


def test_a_connection_is_closed_and_opened(alice: Login) -> None:
    """create, vacate and restart on other nodes: not a line is lost, and each is told what was."""
    job = Connected(alice, "callbacks")
    process = job.first()
    step = alice.step()
    for _ in range(2):
        made = alice.pycr("create", step, "--image-dir", ".")
        assert made.returncode == 0, made
        job.goes_on()
    assert alice.pycr("vacate", step, "--image-dir", ".").returncode == 0
    first = process.communicate(timeout=60)[0]
    for who in ("0", "1"):
        words = [line[2:] for line in first.splitlines() if line[0] == who]
        assert words == ["before", "after", "before", "after", "before"], first
    process = job.start("pycr", "restart", "--image-dir", ".", step, "-wn2,n3")
    new = alice.step().partition(".")[0]
    job.stop()
    second, complaints = process.communicate(timeout=60)
    assert process.returncode == 0, complaints
    lines = sorted(second.splitlines())
    assert lines == sorted(f"{r} {w}" for r in (0, 1) for w in (f"restarted {new} True", "end"))
    for rank in (0, 1):
        sent = job.numbers(rank)
        assert sent == list(range(len(sent))), "a line is missing or came twice"


def test_a_critical_section_holds_a_checkpoint_off(alice: Login) -> None:
    """No checkpoint finds a task in its critical section: its mark would be in the way then."""
    job = Connected(alice, "callbacks")
    process = job.first()
    step = alice.step()
    for _ in range(4):
        mark = alice.place / "critical.0"
        until("a critical section", mark.exists)
        made = alice.pycr("create", step, "--image-dir", ".")
        assert made.returncode == 0, made
    job.goes_on()
    job.stop()
    assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("file", "status", "words"),
    [
        ("later", TIMED_OUT, "is not ready for it: it said: there is a file by that name"),
        ("cannot", REFUSED, "cannot be: ValueError: it will not"),
    ],
)
def test_a_program_may_refuse(alice: Login, file: str, status: int, words: str) -> None:
    """Its own words are told, it goes on, and nothing is left of the checkpoint."""
    job = Connected(alice, "callbacks")
    process = job.first()
    (alice.place / file).touch()
    for wait in ("4", "16", "60"):  # a slow machine takes longer until it is asked
        done = alice.pycr("create", alice.step(), "--image-dir", ".", "--max-wait", wait)
        if words in done.stderr:
            break
    assert done.returncode == status, done
    assert words in done.stderr, done
    assert not list(Path(alice.place).glob("*.*/0*")), "a checkpoint was made"
    job.goes_on()
    (alice.place / file).unlink()
    assert alice.pycr("create", alice.step(), "--image-dir", ".").returncode == 0
    job.goes_on()
    job.stop()
    assert process.wait(60) == 0


ENDS = """import subprocess, sys, time
import pycr
def before():
    child.kill()
    child.wait()
pycr.on_checkpoint(before=before)
time.sleep(0.5)
child = subprocess.Popen(["sleep", "1000"])  # its id is above those of the callback's threads
print("ready", flush=True)
time.sleep(1000)
"""


def test_a_process_may_end_before_all_stand_still(alice: Login) -> None:
    """It was there, with the highest id, when the checkpoint began."""
    (alice.place / "ends.py").write_text(ENDS)
    line = f"PYTHONPATH={PACKAGE} exec python3 ends.py > out"
    job = alice.popen("srun", "--cr", "-n1", "bash", "-c", line)
    until("it to run", lambda: alice.read("out"))
    step = alice.step()
    done = alice.pycr("vacate", step, "--image-dir", ".")
    assert done.returncode == 0, done.stderr
    job.communicate(timeout=30)
    assert alice.pycr_json("verify", "--image-dir", ".", step)["whole"]


TURNS = """
import os, pycr, time
def turn():
    os.dup2(os.open("turned", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 1)
pycr.on_checkpoint(turn)
for number in range(1000000):
    print(number)
    time.sleep(0.05)
    if os.path.exists("stop"):
        break
"""


def test_streams_are_those_it_had_when_it_stood_still(alice: Login) -> None:
    """A script that turns its output elsewhere at the last moment finds it there again."""
    (alice.place / "turns.py").write_text(TURNS)
    line = f"PYTHONPATH={PACKAGE} exec python3 -u turns.py"
    job = alice.run("sbatch", "--parsable", "-o", "log", "--wrap", line).stdout.strip()
    until("output", lambda: "3\n" in alice.read("log"))
    assert alice.pycr("vacate", job, "--image-dir", ".").returncode == 0
    seen = len(alice.read("turned").splitlines())
    again = alice.pycr("restart", "--image-dir", ".", job)
    assert again.returncode == 0, again
    until("more output", lambda: len(alice.read("turned").splitlines()) > seen + 5)
    (alice.place / "stop").touch()
    until("its end", lambda: not alice.jobs())
    numbers = (alice.read("log") + alice.read("turned")).split()
    assert numbers == [str(number) for number in range(len(numbers))]
