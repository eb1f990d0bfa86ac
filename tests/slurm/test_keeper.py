# SPDX-License-Identifier: GPL-2.0-or-later
"""Keepers: what is checkpointed from time to time, before its end and when it is preempted, and
goes on without a gap.
"""

from __future__ import annotations

import json
import re
import signal
from typing import Any

from tests.login import Login, until
from tests.victims.ticking import Ticking, gapless

NODE = "n1"
SLOWLY = {"TICK": "0.05"}


class Kept:
    """A job as its journal has it."""

    def __init__(self, login: Login, job: str) -> None:
        self.login, self.job = login, job
        home = login.cluster.shared / "home" / login.user
        self.path = home / "checkpoint/.journal" / job

    def events(self, *names: str) -> list[dict[str, Any]]:
        text = self.path.read_text() if self.path.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # the last line may be being written
        every = [json.loads(line) for line in whole.splitlines()]
        return [event for event in every if event["event"] in names]

    def made(self, vacate: bool) -> list[dict[str, Any]]:
        """Return the checkpoints that were made: from time to time, or at an end."""
        return [event for event in self.events("committed") if event["vacate"] is vacate]

    def notes(self) -> str:
        return "\n".join(event["text"] for event in self.events("note"))

    def write(self, event: str, step: str) -> None:
        """Add an event to the journal, as its owner."""
        code = "import sys; from pathlib import Path; from pycr.journal import Journal;"
        code += (
            " Journal(Path(sys.argv[1]), int(sys.argv[2])).append(sys.argv[3], step=sys.argv[4])"
        )
        place = f"/shared/home/{self.login.user}/checkpoint"
        words = ["/opt/pycr/bin/python3", "-I", "-c", code, place, self.job, event, step]
        done = self.login.run(*words)
        assert done.returncode == 0, done.stderr

    def restarts(self) -> int:
        """Return how often Slurm has started it again, -1 while it does not run."""
        out = self.login.run("scontrol", "-o", "show", "job", self.job).stdout
        state = re.search(r"JobState=(\w+)", out)
        count = re.search(r"Restarts=(\d+)", out)
        assert state and count, out
        return int(count.group(1)) if state.group(1) == "RUNNING" else -1

    def wait_for_life(self, number: int, out: str) -> None:
        """Wait until it has been started again so often and its task goes on."""
        until(f"life {number}", lambda: self.restarts() == number, 60)
        seen = self.login.read(out).count("\n")
        until("its task to go on", lambda: self.login.read(out).count("\n") > seen + 1, 60)

    def preempt(self, node: str = NODE) -> None:
        """Have another job take its node, and wait until that job is over."""
        words = ["-p", "urgent", "-w", node, "-N1", "-n8", "--wrap", "true"]
        done = self.login.run("sbatch", "--wait", "-o", "/dev/null", *words, timeout=120)
        assert done.returncode == 0, done.stderr


def keepers(login: Login) -> list[str]:
    """Return the keepers that run on the nodes of the tests."""
    found = []
    for node in ("n0", NODE):
        out = login.cluster.node(node).run(["pgrep", "-u", login.user, "-af", "pycr.keeper"]).stdout
        found += [line for line in out.splitlines() if "pycr.keeper" in line]
    return found


def one_keeper(login: Login) -> None:
    """See that there is one: what it starts has its command line too, for a moment."""
    until("one keeper", lambda: len(keepers(login)) == 1)


def test_step(alice: Login) -> None:
    """From time to time, never two at once, not while disabled; a last time for a SIGTERM."""
    ticking = Ticking(alice)
    ticking.start("--checkpoint=0:02", "--cr-before-end", "--time=60", env=SLOWLY)
    job = ticking.step.partition(".")[0]
    kept = Kept(alice, job)
    until("three checkpoints", lambda: len(kept.made(False)) >= 3)
    running = 0
    for event in kept.events("began", "committed", "failed"):
        running += 1 if event["event"] == "began" else -1
        assert running <= 1, kept.events("began", "committed", "failed")
    life = kept.events("life")[0]
    assert (life["step"], life["interval"]) == (ticking.step, 2.0)
    one_keeper(alice)
    kept.write("disable", ticking.step)
    until("a note of it", lambda: "skipped: step" in kept.notes() and "disabled" in kept.notes())
    before = len(kept.made(False))
    kept.write("enable", ticking.step)
    until("another checkpoint", lambda: len(kept.made(False)) > before)
    assert ticking.process is not None
    ticking.process.send_signal(signal.SIGTERM)
    ticking.end()
    until("the last checkpoint", lambda: len(kept.made(True)) == 1)
    assert "a SIGTERM came: checkpointed" in ticking.err
    ticking.err = "".join(line for line in ticking.err.splitlines(True) if line[0] == "0")
    until("the keeper to end", lambda: not keepers(alice))
    assert [event["why"] for event in kept.events("ended")] == ["vacated"]
    ticking.live("pycr", "restart", ticking.step)
    ticking.goes_on()
    assert not keepers(alice), "a plain srun --cr has none"
    assert ticking.stop() == 0
    ticking.whole()


def test_batch_job(alice: Login) -> None:
    """From time to time, through a time limit that was cut, and a preemption: without a gap."""
    tick = alice.victim("tick.py")
    script = f"#!/bin/bash\n#SBATCH --cr --requeue\nsrun --cr -n1 {tick}\necho over $?\n"
    words = ["--parsable", "-p", "spare", "-w", NODE, "-n1", "-t60", "-o", "out", "-e", "err"]
    words += ["--checkpoint=0:04", "--open-mode=append"]
    job = alice.run("sbatch", *words, input=script, env=SLOWLY).stdout.strip()
    kept = Kept(alice, job)
    both = [f"{job}.batch", f"{job}.0"]  # its first may come before its step
    until("a checkpoint of both", lambda: both in [each["steps"] for each in kept.made(False)])
    one_keeper(alice)  # the step has none of its own

    root = alice.cluster.node("n0")
    root.run(["scontrol", "update", f"JobId={job}", "EndTime=now+25"], check=True)
    kept.wait_for_life(1, "out")
    until("its keeper's word", lambda: len(kept.events("life")) == 2)
    lives = kept.events("life")
    assert lives[1]["generation"] == kept.made(True)[0]["path"]
    assert lives[1]["before_end"] < 60, "it follows what was measured"
    assert "put back into the queue" in kept.notes()

    kept.preempt()
    kept.wait_for_life(2, "out")
    assert "the job is preempted" in kept.notes()
    assert [event["why"] for event in kept.events("ended")] == ["requeued"] * 2
    (alice.place / "stop").touch()
    until("its end", lambda: "over 0" in alice.read("out"))
    until("the keeper to end", lambda: not keepers(alice))
    gapless(alice.read("out"), 1)
    ours = [line for line in alice.read("err").splitlines() if line[:2] == "0 "]
    gapless("\n".join(ours), 1)
    assert len(kept.events("life")) == 3
    going = ("RUNNING", "COMPLETING")
    until("Slurm to see its end", lambda: alice.state(job) not in going)
    assert alice.state(job) == "COMPLETED", "it is not put back once more for its preemption"


def test_step_of_a_plain_script(alice: Login) -> None:
    """Preempted, to be cancelled: its steps are vacated, it is put back, and does not go on."""
    tick = alice.victim("tick.py")
    step = "srun --cr --cr-before-end --exact -n1"
    script = f"""#!/bin/bash
if [ "$SLURM_RESTART_COUNT" ]; then echo again; exit; fi
mkdir other
(cd other; {step} {tick} >out; touch wrong) &
{step} {tick} >out.0
touch wrong
wait
"""
    words = ["--parsable", "--requeue", "-p", "spare-cancel", "-w", NODE, "-n2", "-t60"]
    job = alice.run("sbatch", *words, "-o", "out", input=script, env=SLOWLY).stdout.strip()
    kept = Kept(alice, job)
    until("two keepers", lambda: len(kept.events("life")) == 2)
    until("both to tick", lambda: alice.read("out.0") and alice.read("other/out"))
    kept.preempt()
    until("its next life", lambda: "again" in alice.read("out"), 60)
    steps = [event["steps"] for event in kept.made(True)]
    assert sorted(steps) == [[f"{job}.0"], [f"{job}.1"]]
    assert not (alice.place / "wrong").exists()
    assert not (alice.place / "other/wrong").exists()
    until("the keepers to end", lambda: not keepers(alice))
    for name in ("out.0", "other/out"):
        gapless(alice.read(name), 1)


def test_array(alice: Login) -> None:
    """The task that has the array's id is preempted: it goes on, and it alone was put back."""
    script = f"""#!/bin/bash
mkdir -p $SLURM_ARRAY_TASK_ID
cd $SLURM_ARRAY_TASK_ID
srun --cr -n1 {alice.victim("tick.py")} >> out
"""
    words = ["--parsable", "--array=1-2", "--exclude=n0,n3", "-n5", "-t60", "-p", "spare"]
    words += ["--cr", "--cr-before-end", "--requeue", "--open-mode=append"]
    job = alice.run("sbatch", *words, input=script, env=SLOWLY).stdout.strip()
    until("both to tick", lambda: alice.read("1/out") and alice.read("2/out"))

    def rows() -> dict[str, dict[str, str]]:
        found = {}
        for line in alice.run("scontrol", "-o", "show", "job", job).stdout.splitlines():
            row = dict(word.split("=", 1) for word in line.split() if "=" in word)
            found[row["JobId"]] = row
        return found

    kept = Kept(alice, job)
    until("its keeper", lambda: kept.events("life"))
    kept.preempt(rows()[job]["NodeList"])
    until("it to go on", lambda: kept.events("restored"), 60)
    assert rows().pop(job)["Restarts"] == "1"
    assert [row["Restarts"] for name, row in rows().items() if name != job] == ["0"]
    for each in ("1", "2"):
        (alice.place / each / "stop").touch()
    until("their end", lambda: all("pause" in alice.read(f"{each}/out") for each in "12"))
    for each in ("1", "2"):
        gapless(alice.read(f"{each}/out"), 1)
