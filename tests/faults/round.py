# SPDX-License-Identifier: GPL-2.0-or-later
"""One round: a victim, a checkpoint of it, a fault; and what must be true afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults import judge, kept, left
from tests.faults.faults import EITHER, ENDS, FAULTS, ON
from tests.faults.places import PLACE
from tests.faults.plan import NODES, Plan
from tests.faults.scene import Scene
from tests.faults.victims import KINDS, Victim, Wrong
from tests.login import Login, until

GRACE = 30  # seconds of silence beyond --max-wait that a helper bears (docs/reliability.md)
SLACK = 6.0  # seconds that a busy machine may take for anything
SLURM_ENDS = 100.0  # seconds in which a job is over: slurmstepd may have waited for slurmctld
LIMITS = {"time_limit": 70.0, "node_gone": 300.0}  # seconds that Slurm takes to end such a victim


class Result(NamedTuple):
    """What came of a round. problems: the promises that were not kept."""

    hit: str
    status: int | None
    words: str
    made: bool
    ran_on: bool
    restarted: bool
    left: list[str]
    notes: list[str]
    problems: list[str]
    seconds: float


class Round:
    """One, run once."""

    def __init__(self, cluster: Any, plan: Plan) -> None:
        self.cluster, self.plan, self.fault = cluster, plan, FAULTS[plan.fault]
        self.login = _login(cluster, f"faults-{plan.seed}-{plan.number}-{time.monotonic_ns()}")
        self.victim: Victim = KINDS[plan.victim](self.login, plan.shape)
        self.scene = Scene(cluster, self.victim, plan.dice())
        self.scene.max_wait = self.fault.max_wait
        self.windows: dict[str, tuple[list[int], list[int]]] = {}
        self.problems: list[str] = []
        self.hit = self.words = ""
        self.status: int | None = None
        self.second: tuple[int, str] | None = None
        self.end_status = self.victim.good
        self.before_fault: set[str] = set()
        self.made = self.ran_on = self.restarted = False

    def run(self, keep: Path) -> Result:
        """Run it; what there is to look at after a failure is kept in a directory."""
        began = time.monotonic()
        remains: list[str] = []
        scene = self.scene
        mounts = {node: left.mounts(scene.processes, node) for node in NODES}
        try:
            if self.fault.prepare is not None:
                self.fault.prepare(scene)
            else:
                self.login.run("mkdir", "-m", "700", "images")
            self.victim.start()
            self.attempt_undisturbed()
            self.attempt_with_fault()
            self.aftermath()
            self.restart()
            self.beside()
            remains = self.left(mounts, but_mounts=self.fault.prepare is not None)
        except Exception as error:
            self.problems.append(f"{type(error).__name__}: {error}")
            remains = [str(p) for p in scene.processes.all() if p.users]
        finally:
            if self.problems:
                kept.keep(keep, scene)
            scene.put_right()
            try:
                self.login.cancel_all()
            except AssertionError:
                # A job whose slurmstepd or slurmd was killed takes Slurm a minute to be done with.
                until("Slurm to be done with its jobs", lambda: not self.login.jobs(), 120)
            scene.clear_up()
        remains += left.sweep_sockets(scene.processes, cluster=self.cluster)
        remains += [each for each in self.left(mounts) if each not in remains]
        shutil.rmtree(self.login.place, ignore_errors=True)
        self.problems += [f"left: {each}" for each in remains]
        return Result(
            self.hit,
            self.status,
            self.words,
            self.made,
            self.ran_on,
            self.restarted,
            remains,
            scene.notes,
            self.problems,
            time.monotonic() - began,
        )

    @property
    def step_dir(self) -> str:
        """The name of the directory with the victim's generations."""
        return self.victim.name if "." in self.victim.name else f"{self.victim.name}.batch"

    def generations(self) -> list[str]:
        """Return the victim's generations, the oldest first."""
        images = self.scene.host("n0", f"{self.scene.images}/{self.step_dir}")
        return sorted(path.parent.name for path in images.glob("[0-9]*/manifest.json"))

    def words_for(self, verb: str, max_wait: int) -> list[str]:
        victim = self.victim
        return [
            *("pycr", verb, victim.name),
            *("--image-dir", self.scene.images, "--max-wait", str(max_wait)),
        ]

    def attempt_undisturbed(self) -> None:
        """Make a checkpoint that must succeed."""
        lower, before = self.victim.heard(), self.generations()
        began = give_up = time.monotonic()
        if self.fault.silent:
            give_up += self.fault.max_wait + GRACE + SLACK
        while True:
            done = self.login.run(*self.words_for("create", 30))
            if done.returncode != 13 or time.monotonic() > give_up:
                break
        self.usual = time.monotonic() - began
        if done.returncode:
            raise Wrong(f"a checkpoint without a fault: {done.returncode}: {done.stderr}")
        (new,) = set(self.generations()) - set(before)
        self.windows[new] = (lower, self.victim.beats())
        remains = left.beside_images(self.scene.host("n0", self.scene.images))
        if remains:
            raise Wrong(f"a checkpoint has not swept away {remains}")

    def attempt_with_fault(self) -> None:
        """Make a checkpoint, have the fault come, and judge what pycr says of it."""
        scene, plan = self.scene, self.plan
        lower, before = self.victim.heard(), self.generations()
        self.before_fault = set(before)
        delay = (1.25 * plan.moment - 0.15) * self.usual
        if delay < 0 and not self.fault.target:
            self.hit = self.fault.inject(scene)
            scene.wait(-delay)
        scene.pycr = self.login.popen(*self.words_for(plan.verb, self.fault.max_wait))
        if self.fault.target:
            scene.processes.await_kind(self.fault.target, scene.under_way)
            scene.wait(plan.moment * self.fault.span)
        elif delay >= 0:
            scene.wait(delay)
        if not self.hit:
            self.hit = self.fault.inject(scene)
        self.status, self.words = self._await(scene.pycr, self.fault.max_wait)
        if scene.second is not None:
            self.second = self._await(scene.second, 6)
        scene.put_right()
        new = sorted(set(self.generations()) - set(before))
        self.made = bool(new)
        if self.hit and self.fault.loses_step and self.plan.victim == "batch":
            self.victim.script_alone = True
        for each in new:
            self.windows[each] = (lower, self.victim.beats())
        self.judge(self.status, self.words, new)

    def _await(self, process: subprocess.Popen[str], max_wait: int) -> tuple[int, str]:
        try:
            out, err = process.communicate(timeout=max_wait + self.fault.slow + SLACK)
        except subprocess.TimeoutExpired:
            self.problems.append("pycr has not ended")
            for found in self.scene.processes.find("coordinator"):
                os.kill(found.pid, signal.SIGKILL)
            out, err = process.communicate(timeout=30)
        self.out = out
        return process.returncode, err

    def judge(self, status: int, words: str, new: list[str]) -> None:
        """Judge what one pycr, or two at once, said of what there is."""
        if self.second is not None:
            self.scene.note(f"the second ended with {self.second[0]}")
            vacate = self.plan.verb == "vacate"
            self.problems += judge.two(status, words, *self.second, new, vacate)
        else:
            self.problems += judge.one(status, words, new, removed="removed" in self.hit)

    def expected(self) -> str:
        """Return what must become of the victim."""
        then = self.fault.then if self.hit else ON
        if then == ENDS:
            return ENDS
        if self.plan.verb == "vacate" and self.made:
            sure = self.status == 0 and self.scene.second is None
            return ENDS if sure else EITHER
        return then

    def aftermath(self) -> None:
        """See that the victim runs on, can be checkpointed and comes to its end; or has ended."""
        wanted, victim = self.expected(), self.victim
        beats = victim.beats()
        patience = SLACK + (self.fault.max_wait + GRACE if self.fault.silent else 0)
        if victim.script_alone and not (self.plan.verb == "vacate" and self.made):
            wanted, beats = ON, victim.beats()
        if wanted == ENDS:
            self.until_over(LIMITS.get(self.plan.fault, 25.0))
        elif wanted == EITHER:
            until("it to go on or end", lambda: victim.works_since(beats) or victim.over(), 25)
            self.ran_on = not victim.over()
            if self.ran_on and self.fault.loses_step:
                until("it to settle", lambda: self.settled(beats), 25)
                self.ran_on = not victim.over()
        else:
            until("the victim to go on", lambda: victim.works_since(beats), patience)
            self.ran_on = True
        if self.ran_on:
            self.attempt_undisturbed()
            victim.stop()
            self.end_status = victim.end(SLURM_ENDS)
            if self.end_status != victim.good and not self.fault.loses_step:
                raise Wrong(f"the victim ended with {self.end_status}: {victim.tail()}")
        else:
            victim.stop()
            victim.end(SLURM_ENDS)
        # srun_cr may be gone, and its srun not.
        until("the job to be over", victim.over, SLURM_ENDS)
        whole = self.ran_on and not victim.script_alone
        pause = judge.lives(victim, whole)
        if whole:
            self.scene.note(f"longest stop {pause:.2f} s")
            limit = self.fault.max_wait + 2 + (GRACE if self.fault.silent else 0)
            if pause > (self.fault.stop or limit) and self.plan.fault != "dir_hung":
                raise Wrong(f"its longest stop was {pause:.1f} s")

    def settled(self, beats: list[int]) -> bool:
        """Tell whether it has ended, or has gone on for long enough to show that it does not."""
        return self.victim.works_since([each + 50 for each in beats]) or self.victim.over()

    def until_over(self, seconds: float) -> None:
        """Wait for the victim's end; where Slurm takes its time, make checkpoints meanwhile."""
        give_up = time.monotonic() + seconds
        while not self.victim.over():
            if time.monotonic() > give_up:
                raise Wrong(f"the victim has not ended in {seconds:.0f} s")
            if self.plan.fault == "time_limit":
                lower, before = self.victim.heard(), self.generations()
                done = self.login.run(*self.words_for("create", 6))
                new = sorted(set(self.generations()) - set(before))
                self.judge(done.returncode, done.stderr, new)
                for each in new:
                    self.windows[each] = (lower, self.victim.beats())
            time.sleep(0.1)

    def restart(self) -> None:
        """See that the newest generation restarts to the right answer."""
        found = self.generations()
        if not found:
            if "removed" not in self.hit:
                raise Wrong("no generation is left")
            return
        newest = max(found, key=int)
        before = self.victim.text()
        status, said = self.victim.restart(f"{self.scene.images}/{self.step_dir}/{newest}")
        restarts = 1
        after = set(found) - self.before_fault
        if self.victim.script_alone and newest in after and status != self.victim.good:
            # A script whose step is lost ends as it would have; what was made before has the step.
            if self.ran_on and status != self.end_status:
                raise Wrong(f"the script ended with {self.end_status}, restarted with {status}")
            newest, restarts = max(set(found) - after, key=int), 2
            before = self.victim.text()
            status, said = self.victim.restart(f"{self.scene.images}/{self.step_dir}/{newest}")
        if status != self.victim.good:
            raise Wrong(f"the restart from {newest} ended with {status}: {said[-400:]}")
        if "output is missing" in self.words and newest in after:
            self.scene.notes.append("pycr has said that output is missing")
        else:
            judge.restarted(self.victim, before, said, restarts, self.windows[newest])
        self.restarted = True

    def beside(self) -> None:
        """See what is left beside the generations. Only a pycr that was killed may leave a half."""
        remains = left.beside_images(self.scene.host("n0", self.scene.images))
        if self.status == -signal.SIGKILL or self.plan.fault.startswith("dir_"):
            remains = [each for each in remains if "/.new-" not in each]
        self.problems += [f"left beside the generations: {each}" for each in remains]

    def left(self, mounts: dict[str, set[str]], but_mounts: bool = False) -> list[str]:
        """Return what is left on the nodes, when it had time to go."""
        found: list[str] = []

        def clean() -> bool:
            found[:] = left.on_nodes(self.scene.processes, list(NODES), mounts)
            if but_mounts:
                found[:] = [each for each in found if PLACE not in each]
            found.extend(f"step {step}" for step in self.login.steps())
            found.extend(f"job {job}" for job in self.login.jobs())
            return not found

        with suppress(AssertionError):
            until("nothing to be left", clean, 30)
        return found


def _login(cluster: Any, name: str) -> Login:
    """Make alice a directory of her own."""
    place = cluster.shared / "tests" / name
    place.parent.mkdir(mode=0o777, exist_ok=True)
    place.parent.chmod(0o1777)
    place.mkdir(mode=0o700)
    user_id = int(cluster.node("n0").run(["id", "-u", "alice"]).stdout)
    os.chown(place, user_id, user_id)
    return Login(cluster, "alice", "n0", place)
