# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints of running steps: what goes on, what is written where, and how one is given up."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.login import Login, until
from tests.victims.ticking import Ticking, gapless

INTERRUPTED = 130
TIMED_OUT, BUSY = 12, 13


def leftovers(place: Path) -> list[str]:
    """Return what unfinished checkpoints have left in an image directory."""
    return [str(path) for path in place.glob("*.*/.new-*")]


def whole(alice: Login, place: str = ".") -> list[str]:
    """Return the generations in an image directory, after seeing that each is whole."""
    rows = alice.pycr_json("ls", place)
    assert all(row["whole"] for row in rows), rows
    return sorted(row["generation"] for row in rows)


@pytest.mark.parametrize("how", ["held", "independent"])
def test_create_leaves_the_step_running(alice: Login, how: str) -> None:
    """Three times, every task goes on without a gap, and there are three generations."""
    job = Ticking(alice, 4, "3")
    job.start("-N2")
    for _ in range(3):
        job.create("--image-dir", ".", *(["--independent"] if how == "independent" else []))
        job.goes_on()
    assert job.stop() == 3
    job.whole()
    assert whole(alice) == ["0001", "0002", "0003"]
    assert not leftovers(alice.place)


def test_held_tasks_share_a_moment(alice: Login) -> None:
    """A consistent cut: there is a moment at which no task ran; the tasks tell themselves."""
    job = Ticking(alice, 6, "0", "60")
    job.start("-N2")
    job.create()
    assert job.stop() == 0
    pauses = job.pauses()
    assert max(start for start, _ in pauses) < min(end for _, end in pauses), pauses


def test_independent_tasks_wait_for_no_other(alice: Login) -> None:
    """Beside a large task a small one stands still for less than half as long, and held as long;
    but for what else the machine may have to do meanwhile."""
    program = alice.place / "tasks"
    program.write_text("0 ./tick.py 0 400\n1 ./tick.py 0 0\n")
    job = Ticking(alice, 2)
    job.command = ["--multi-prog", program.name]
    job.start("-N1")

    def share(*options: str) -> float:
        made = job.create("--image-dir", ".", *options)
        tasks = alice.pycr_json("show", f"{alice.dir}/{made.relative_to(alice.place)}")["tasks"]
        large, small = (task["frozen"] for task in tasks)
        return float(small / large)

    until("it to be held", lambda: share() > 0.5)
    until("it to wait for no other", lambda: share("--independent") < 0.5)
    assert job.stop() == 0
    job.whole()


def test_job_means_all_its_steps(alice: Login) -> None:
    """Two steps at once in an allocation without a script: create takes both, vacate ends both."""
    victim = alice.victim("tick.py")
    (alice.place / "job.sh").write_text(
        "#!/bin/bash\n"
        "for name in a b; do mkdir $name\n"
        f"srun --exact -N2 -n2 -c1 -D $PWD/$name -o $PWD/$name/out -e $PWD/$name/err {victim} &\n"
        "done; wait; echo over > log\n"
    )
    alice.popen("salloc", "-J", "steps", "-N2", "--ntasks-per-node=2", "bash", "job.sh")
    job_id = str(until("the allocation", alice.jobs)[0])
    beats = [alice.place / name / f"beat.{task}" for name in "ab" for task in range(2)]
    until("both steps", lambda: all(beat.exists() and beat.stat().st_size for beat in beats))
    made = alice.pycr_json("create", job_id, "--image-dir", ".")
    assert [row["step"] for row in made] == [f"{job_id}.0", f"{job_id}.1"]
    sizes = [beat.stat().st_size for beat in beats]
    until("all to go on", lambda: all(b.stat().st_size > s for b, s in zip(beats, sizes)))
    vacated = alice.pycr("vacate", job_id, "--image-dir", ".")
    assert vacated.returncode == 0, vacated.stderr
    until("the script to go on", lambda: "over" in alice.read("log"))
    for row in made:
        for beat in beats:
            (beat.parent / "stop").touch()
        again = alice.pycr("restart", "--image-dir", ".", row["step"])
        assert again.returncode == 0, again.stderr
        before = [alice.read(f"{name}/out") for name in "ab"]
        texts = [first + again.stdout for first in before]
        assert any(_is_gapless(text) for text in texts), texts


def _is_gapless(text: str) -> bool:
    try:
        gapless(text, 2)
    except AssertionError:
        return False
    return True


def test_step_started_without_cr(alice: Login) -> None:
    job = Ticking(alice, 2)
    job.start("-N2", cr=False)
    job.create()
    job.vacate()
    job.restart()
    assert job.stop() == 0
    job.whole()


def test_image_directory(alice: Login) -> None:
    """The option before the variable, before the step's own, before the site's default."""
    for name in ("own", "variable", "option"):
        (alice.place / name).mkdir()
        alice.cluster.node("n0").run(["chown", "alice:alice", f"{alice.dir}/{name}"], check=True)
    alice.sh("rm -rf ~/checkpoint")
    job = Ticking(alice, 1)
    job.start(f"--checkpoint-dir={alice.dir}/own")
    variable = {"SLURM_CHECKPOINT_DIR": f"{alice.dir}/variable"}
    for name, options, env in (
        ("option", ["--image-dir", "option"], variable),
        ("variable", [], variable),
        ("own", [], {}),
    ):
        done = alice.pycr("create", job.step, *options, env=env)
        assert done.returncode == 0, done.stderr
        assert whole(alice, name) == ["0001"], name
    job.stop()
    for name in ("stop", "beat.0"):
        (alice.place / name).unlink()
    job.start()
    done = alice.pycr_json("vacate", job.step)
    home = alice.cluster.shared / "home/alice/checkpoint"
    assert done[0]["path"] == f"/shared/home/alice/checkpoint/{job.step}/0001"
    assert home.stat().st_mode & 0o777 == 0o700
    job.end()
    again = alice.popen("pycr", "restart", job.step)
    (alice.place / "stop").touch()
    assert again.wait(30) == 0
    again.communicate()
    alice.sh("rm -rf ~/checkpoint")


class Stuck:
    """A step that CRIU cannot freeze until free(): stuck.c, which ticks all the while."""

    def __init__(self, alice: Login) -> None:
        alice.victim("stuck.c")
        built = alice.run("gcc", "-O1", "-pthread", "-o", "stuck", "stuck.c")
        assert built.returncode == 0, built.stderr
        self.alice, self.beat = alice, alice.place / "beat"
        self.process = alice.popen("srun", "--cr", "-n1", "-w", "n1", "./stuck")
        until("it to be stuck", lambda: self.beat.exists() and self.beat.stat().st_size)
        self.step = alice.step()

    def create(self) -> subprocess.Popen[str]:
        """Start a create and wait until CRIU is at work."""
        made = self.alice.popen("pycr", "create", self.step, "--image-dir", ".")
        node = self.alice.cluster.node("n1")
        look = ["pgrep", "-u", self.alice.user, "-x", "criu"]
        until("CRIU to begin", lambda: node.run(look).returncode == 0)
        return made

    def free(self) -> None:
        """Let it be frozen."""
        (self.alice.place / "go").touch()

    def goes_on(self) -> None:
        """Wait until it has ticked."""
        seen = self.beat.stat().st_size
        until("it to go on", lambda: self.beat.stat().st_size > seen + 1)

    def can_be_checkpointed(self) -> None:
        """See that a create works and leaves nothing half behind, then end the step."""
        done = self.alice.pycr("create", self.step, "--image-dir", ".")
        assert done.returncode == 0, done.stderr
        assert whole(self.alice) == ["0001"]
        assert not leftovers(self.alice.place)
        self.goes_on()
        (self.alice.place / "stop").touch()
        assert self.process.wait(30) == 0
        self.process.communicate()


def test_max_wait_too_short(alice: Login) -> None:
    """It is given up, with a line that says so; the task runs on and nothing is left."""
    job = Stuck(alice)
    create = alice.pycr("create", job.step, "--image-dir", ".", "--max-wait", "6")
    assert create.returncode == TIMED_OUT, create.stderr
    assert create.stderr.splitlines() == [
        f"pycr: step {job.step}: freezing the tasks took longer than --max-wait: given up, the"
        " tasks run on (waited for task 0 on n1)"
    ]
    assert not (alice.place / job.step).exists()
    until("its helper to end", lambda: alice.steps() == [job.step])
    job.goes_on()
    job.free()
    job.can_be_checkpointed()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_create(alice: Login, number: signal.Signals) -> None:
    """A create that is interrupted cleans up, says so, and leaves the task running."""
    job = Stuck(alice)
    create = job.create()
    create.send_signal(number)
    job.goes_on()
    job.free()
    _, err = create.communicate(timeout=30)
    assert create.returncode == INTERRUPTED, err
    assert err == "pycr: interrupted: given up, the tasks run on\n"
    assert not (alice.place / job.step).exists()
    job.goes_on()
    job.can_be_checkpointed()


def test_killed_create(alice: Login) -> None:
    """What a create that was killed has left is swept by the next one."""
    job = Stuck(alice)
    create = job.create()
    create.kill()
    create.communicate(timeout=30)
    job.goes_on()
    job.free()
    until("its helper to end", lambda: alice.steps() == [job.step])
    job.goes_on()
    assert leftovers(alice.place)
    job.can_be_checkpointed()


@pytest.mark.parametrize("places", [(".", "."), (".", "other")], ids=["same dir", "two dirs"])
def test_two_creates_at_once(alice: Login, places: tuple[str, str]) -> None:
    """Both succeed, one after the other, or one says that it is busy; what there is is whole."""
    (alice.place / "other").mkdir()
    alice.cluster.node("n0").run(["chown", "alice:alice", f"{alice.dir}/other"], check=True)
    job = Ticking(alice, 2, "0", "50")
    job.start("-N2")
    both = [alice.popen("pycr", "create", job.step, "--image-dir", place) for place in places]
    ends = [(each.communicate(timeout=60)[1], each.returncode) for each in both]
    statuses = [status for _, status in ends]
    assert 0 in statuses and set(statuses) <= {0, BUSY}, ends
    assert all("under way" in err for err, status in ends if status), ends
    job.goes_on()
    made = [name for place in sorted(set(places)) for name in whole(alice, place)]
    assert len(made) == statuses.count(0)
    assert not leftovers(alice.place) and not leftovers(alice.place / "other")
    job.create()
    assert job.stop() == 0
    job.whole()


def test_ring_over_a_shared_file(alice: Login) -> None:
    """A token goes round in a file, over two nodes; no turn is lost or repeated.

    The file is open for reading and writing, and its size is in every task's image: no task may
    write once another has been dumped, or it could not be restarted.
    """
    victim = alice.victim("ring.py")
    life = alice.popen("srun", "--cr", "-N2", "-n4", victim)
    step = alice.step()
    for _ in range(2):
        turns(alice, 20)
        assert alice.pycr("create", step, "--image-dir", ".").returncode == 0
        vacated = alice.pycr("vacate", step, "--image-dir", ".")
        assert vacated.returncode == 0, vacated.stderr
        assert "fail" not in life.communicate(timeout=30)[1]
        life = alice.popen("pycr", "restart", "--image-dir", ".", step)
        turns(alice, 20)
        step = alice.step()
    (alice.place / "stop").touch()
    out, err = life.communicate(timeout=30)
    assert life.returncode == 0, err
    assert sorted(out.split()) == ["pass"] * 4
    text = alice.read("turns")
    assert text == ("0123" * len(text))[: len(text)]


def turns(alice: Login, more: int) -> None:
    """Wait until the ring has turned so much more."""
    seen = len(alice.read("turns"))
    until("the ring to turn", lambda: len(alice.read("turns")) > seen + more)
