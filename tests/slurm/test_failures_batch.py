# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user meets when a batch job cannot be checkpointed, restarted or requeued.

One line, its exit status; and the job runs on, or stays as it is, and is never begun anew.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.login import Login, until
from tests.slurm.test_failures import PLUGIN, assert_fails, plugstack

MakeLogin = Callable[..., Login]
# An expiry that nobody reads: found only when all stand still and are written.
HELD = """
import os, time
held = os.timerfd_create(time.CLOCK_MONOTONIC)
os.timerfd_settime(held, initial=0.01, interval=0.01)
time.sleep(0.1)
print("held", flush=True)
time.sleep(100)
"""
COUNT = "for i in $(seq 1000); do echo $i; [ ! -e stop ] || exit 7; sleep 0.1; done"


class Batch:
    """A batch job of a user's whose output is `log`."""

    def __init__(self, login: Login, text: str, *options: str) -> None:
        self.login = login
        (login.place / "job.sh").write_text(f"#!/bin/bash\n{text}\n")
        words = ["--parsable", "-o", "log", "-J", "job", *options, "job.sh"]
        done = login.run("sbatch", *words)
        assert done.returncode == 0, done.stderr
        self.job = done.stdout.strip()

    def pycr(self, verb: str, *words: str) -> Any:
        """Run a verb on it, images in the current directory."""
        return self.login.pycr(verb, self.job, "--image-dir", ".", *words)

    def runs(self) -> None:
        """Wait until it has written something more."""
        seen = len(self.login.read("log"))
        until("it to write", lambda: len(self.login.read("log")) > seen)

    def field(self, name: str, job: str = "") -> str:
        """Return a field of what Slurm says of it."""
        text = self.login.run("scontrol", "-o", "show", "job", job or self.job).stdout
        match = re.search(rf"\b{name}=(\S*)", text)
        return match.group(1) if match else ""

    def ended(self, job: str = "") -> str:
        """Wait for its end and return its state and exit code."""
        done = ("COMPLETED", "FAILED", "CANCELLED")
        until("its end", lambda: self.field("JobState", job) in done)
        return f"{self.field('JobState', job)} {self.field('ExitCode', job)}"


def has_steps(login: Login, count: int, process: subprocess.Popen[str]) -> bool:
    """Tell whether the user has so many steps, pycr's own included, or pycr has ended."""
    return process.poll() is not None or len(login.steps()) >= count


@contextmanager
def kept_in_queue(login: Login) -> Iterator[None]:
    """Have Slurm start no job for a while: a requeued one would wait for some seconds only."""
    root = Login(login.cluster, "root", "n0", login.place)
    words = ("scontrol", "update", "partitionname=debug")
    assert root.run(*words, "state=down").returncode == 0
    try:
        yield
    finally:
        assert root.run(*words, "state=up").returncode == 0


def nothing_left(login: Login) -> None:
    """No half image, no helper's step."""
    assert not list(login.place.glob("*.batch/*")), "something of a checkpoint is left"
    until("pycr's steps to end", lambda: not login.steps())


@pytest.mark.parametrize(
    ("text", "options", "status", "words"),
    [
        ("srun -n1 sleep 100", [], 9, "is a plain srun (srun -n1 sleep 100), which cannot be"),
        ("(setsid sleep 100 &) ; sleep 100", [], 9, "(sleep) of it is orphaned"),
        ("sleep 100", ["--array=1"], 7, "scripts of job arrays cannot be checkpointed yet"),
    ],
    ids=["plain srun", "orphan", "array"],
)
def test_refused(alice: Login, text: str, options: list[str], status: int, words: str) -> None:
    batch = Batch(alice, f"echo up\n{text}", *options)
    batch.runs()
    # An srun that has just started may still become an srun_cr.
    done = until(
        "the refusal", lambda: next((d for d in [batch.pycr("create")] if d.returncode != 13), None)
    )
    assert_fails(done, status, f"job {batch.job}: ", words)
    assert batch.field("JobState") == "RUNNING"
    assert not list(alice.place.glob("*.batch/*")), "something of a checkpoint is left"


def test_unreadable_script(alice: Login) -> None:
    batch = Batch(alice, 'chmod 0 "$0"; echo up; sleep 100')
    batch.runs()
    done = batch.pycr("vacate")
    assert_fails(done, 9, "its batch script on n", "slurm_script cannot be read: Permission denied")
    nothing_left(alice)


def test_from_inside(alice: Login) -> None:
    """The script would have to stand still and wait for itself."""
    batch = Batch(alice, "pycr create $SLURM_JOB_ID --image-dir . 2>&1; echo $?")
    assert batch.ended() == "COMPLETED 0:0"
    assert "a job's script cannot be checkpointed from itself" in alice.read("log")
    assert alice.read("log").splitlines()[-1] == "9"
    nothing_left(alice)


def test_batch_host_without_the_plugin(cluster: Any, alice: Login) -> None:
    batch = Batch(alice, COUNT, "-w", "n1")
    batch.runs()
    with plugstack(cluster, "n1", f"# {PLUGIN}"):
        assert_fails(batch.pycr("vacate"), 7, "node n1", "is the spank_cr plugin enabled there")
    batch.runs()
    nothing_left(alice)


def test_may_not_be_requeued(alice: Login) -> None:
    batch = Batch(alice, COUNT, "--no-requeue")
    batch.runs()
    words = f"it may not be requeued: scontrol update jobid={batch.job} requeue=1"
    assert_fails(batch.pycr("requeue"), 14, words)
    batch.runs()
    nothing_left(alice)


def test_step_that_has_half_ended(alice: Login) -> None:
    """It will stay so: no use to try until --max-wait."""
    script = "srun --cr -n2 bash -c 'echo up; sleep $((SLURM_PROCID * 100))'"
    batch = Batch(alice, script, "-n2")
    until("both tasks", lambda: alice.read("log").count("up") == 2)
    assert_fails(batch.pycr("create"), 5, "step", "task 0 on n", "it has ended")
    assert batch.field("JobState") == "RUNNING"
    until("pycr's steps to end", lambda: alice.steps() == [f"{batch.job}.0"])


def test_one_step_of_two_cannot_be(alice: Login) -> None:
    """Then nothing is: the other step, the script and its output go on."""
    (alice.place / "held.py").write_text(HELD)
    script = f"srun --cr --exact -n1 python3 held.py &\nsrun --cr --exact -n1 bash -c '{COUNT}'"
    batch = Batch(alice, script, "-n2")
    until("the timer", lambda: "held" in alice.read("log"))
    for verb in ("create", "vacate"):
        batch.runs()
        done = batch.pycr(verb)
        assert done.returncode == 9, done
        assert "task 0 on n" in done.stderr
    (alice.place / "stop").touch()
    until("the other step's end", lambda: "Exited with exit code 7" in alice.read("log"))
    numbers = [int(line) for line in alice.read("log").splitlines() if line.isdigit()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_restart_while_it_runs(alice: Login) -> None:
    """Both would write the same files."""
    batch = Batch(alice, COUNT)
    batch.runs()
    assert batch.pycr("create").returncode == 0
    words = f"job {batch.job} is still there (RUNNING)"
    assert_fails(batch.pycr("restart"), 13, words)
    batch.runs()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(alice: Login, number: signal.Signals) -> None:
    """Given up in order: the script and its step run on."""
    script = "srun --cr -n2 bash -c 'for i in $(seq 1000); do echo $i; sleep 0.1; done'"
    batch = Batch(alice, script, "-n2", "-N2")
    batch.runs()
    for helpers in (1, 2, 3, 2):
        process = alice.popen("pycr", "vacate", batch.job, "--image-dir", ".")
        # At another moment each time, from before the helpers' start on; it may be over by then.
        until("the helpers", partial(has_steps, alice, helpers, process))
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        if process.returncode in (0, 1) and "init_import_site" not in said:
            # It was quicker, or had committed: then the job has ended, and there is all of it.
            assert process.returncode == 0 or "interrupted after the commit: checkpointed" in said
            batch.ended()
            assert alice.pycr_json("ls", ".")[0]["whole"]
            break
        assert process.returncode in (130, -number, 1)  # these two: before Python was up
        batch.runs()
        assert not list(alice.place.glob("*.batch/*")), "something of a checkpoint is left"


@pytest.fixture
def vacated(alice: Login) -> Batch:
    """Return a batch job that was vacated and has ended."""
    batch = Batch(alice, COUNT)
    batch.runs()
    done = batch.pycr("vacate")
    assert done.returncode == 0, done.stderr
    assert batch.ended().startswith("CANCELLED")
    return batch


def restarted(batch: Batch, *words: str) -> str:
    """Restart it; return the new job."""
    done = batch.login.pycr("restart", "--image-dir", ".", batch.job, "--parsable", *words)
    assert done.returncode == 0, done.stderr
    return str(done.stdout.strip())


def test_restart_where_the_plugin_is_not(cluster: Any, vacated: Batch) -> None:
    """The script must not begin anew: its stand-in says why, and the checkpoint is as good."""
    alice = vacated.login
    before = alice.read("log")
    with plugstack(cluster, "n1", f"# {PLUGIN}"):
        assert vacated.ended(restarted(vacated, "-w", "n1")) == "FAILED 125:0"
    said = alice.read("log")[len(before) :]
    assert "pycr: couldn't restart: the batch script on n1: the spank_cr plugin is not" in said
    (alice.place / "stop").touch()
    assert vacated.ended(restarted(vacated)) == "FAILED 7:0"


def test_damaged_image(vacated: Batch) -> None:
    alice = vacated.login
    victim = next(alice.place.glob("*.batch/0001/task.0/pages-1.img"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    assert vacated.ended(restarted(vacated)) == "FAILED 125:0"
    assert "couldn't restart: the batch script on n" in alice.read("log")
    assert "pages-1.img: changed: its checksum is not the manifest's" in alice.read("log")


def test_step_and_job_are_told_apart(vacated: Batch) -> None:
    """srun cannot restore a batch script, nor sbatch a step."""
    alice = vacated.login
    generation = next(alice.place.glob("*.batch/0001"))
    done = alice.run("srun", "-n1", f"--restart-dir={generation.relative_to(alice.place)}", "true")
    assert done.returncode == 125
    assert "is a batch script's checkpoint: start it with pycr restart" in done.stderr


def requeued(batch: Batch) -> None:
    done = batch.pycr("requeue")
    assert done.returncode == 0, done.stderr
    assert batch.field("JobState") == "PENDING"


def test_requeued_checkpoint_is_kept_until_it_is_used(alice: Login) -> None:
    """While the job is in the queue, pycr rm does not take away what it is started from."""
    batch = Batch(alice, COUNT)
    batch.runs()
    with kept_in_queue(alice):
        requeued(batch)
        for word in (f"{batch.job}.batch", f"./{batch.job}.batch/0001"):
            words = f"job {batch.job} is in the queue, to be started from it: cancel it first"
            assert_fails(alice.pycr("rm", word, "--image-dir", "."), 13, words)
    (alice.place / "stop").touch()
    assert batch.ended() == "FAILED 7:0"
    numbers = [int(word) for word in alice.read("log").split()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_requeued_checkpoint_is_gone(alice: Login) -> None:
    """The job ends; it does not silently begin anew."""
    batch = Batch(alice, COUNT, "--checkpoint-dir=.")
    batch.runs()
    with kept_in_queue(alice):
        requeued(batch)
        alice.run("rm", "-r", f"{batch.job}.batch/0001")
    assert batch.ended() == "FAILED 125:0"
    said = alice.read("log")
    assert "pycr: couldn't restart: the batch script on n" in said
    assert "No such file or directory" in said
    assert "\n1\n" not in said[5:], "it has begun anew"


def test_requeued_without_pycr(alice: Login) -> None:
    """A job that pycr knows nothing of begins anew, as ever, and without any privilege."""
    batch = Batch(alice, "echo run $SLURM_RESTART_COUNT; grep Cap /proc/self/status\n" + COUNT)
    batch.runs()
    assert alice.run("scontrol", "requeue", batch.job).returncode == 0
    until("it to run again", lambda: re.match(r"run 1\n(.*\n)+1\n", alice.read("log")))
    caps = dict(re.findall(r"(Cap\w+):\s+(\w+)", alice.read("log")))
    assert {caps[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    (alice.place / "stop").touch()
    assert batch.ended() == "FAILED 7:0"


def test_not_its_script(alice: Login) -> None:
    """Ids come again: what was left for another job of that id is not taken for this one's."""
    batch = Batch(alice, COUNT, "--checkpoint-dir=.")
    batch.runs()
    assert batch.pycr("vacate").returncode == 0
    other = Batch(alice, f"# another\n{COUNT}", "--checkpoint-dir=.")
    other.runs()
    place: Path = alice.place / f"{other.job}.batch"
    done = alice.sh(
        f"mkdir -m 700 {place.name}; echo $PWD/{batch.job}.batch/0001 > {place.name}/requeue"
    )
    assert done.returncode == 0
    assert alice.run("scontrol", "requeue", other.job).returncode == 0
    assert other.ended() == "FAILED 125:0"
    assert "it was requeued, but its script is not the checkpoint's" in alice.read("log")
