# SPDX-License-Identifier: GPL-2.0-or-later
"""The jobs that the rounds checkpoint: proof.py in a step, in a restored step, in a batch job.

Owns how each is started, ended and restarted, and how what it wrote is held against the truth: a
line that is not the next one is only right where a restart went back to a checkpoint.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.login import Login, until
from tests.victims.proof import link
from tests.victims.scripted import SLURM_SAYS

SCRIPT = """#!/bin/bash
srun --cr -K {command} &
i=0
while [ ! -e stop ]; do echo "S $i"; i=$((i+1)); sleep 0.05; done
wait $! && exit 7
exit 1
"""
LINE = re.compile(r"(\d+|S) (?:(\d+)(?: ([0-9a-f]{8}))?|(end) (\d+) ([\d.]+)|(fail) (.*))")
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")


class Wrong(AssertionError):
    """A promise that was not kept."""


class Shape(NamedTuple):
    """How large a victim is, and where."""

    tasks: int
    nodes: tuple[str, ...]
    mib: int


class Life(NamedTuple):
    """What one life has written: each writer's first and last number, who came to its end, and the
    longest stop in seconds of those."""

    first: dict[str, int]
    last: dict[str, int]
    ended: set[str]
    pause: float


def read_lives(text: str) -> Iterator[Life]:
    """Return the lives that a text is of; a new one begins where numbers go back.

    Raises Wrong for a gap, a wrong byte, a repeat within a life, and a victim's own complaint.
    """
    chains: dict[str, dict[int, int]] = {}
    life = Life({}, {}, set(), 0.0)
    *lines, _unfinished = text.split("\n")
    for line in lines:
        match = LINE.fullmatch(line)
        if match is None:
            if re.match(r"\d+ \d|S \d", line):
                raise Wrong(f"a damaged line: {line!r:.80}")
            continue
        writer, number, chain, end, _, pause, failed, why = match.groups()
        if failed:
            raise Wrong(f"task {writer}: {why}")
        if end:
            life.ended.add(writer)
            life = life._replace(pause=max(life.pause, float(pause)))
            continue
        now = int(number)
        known = chains.setdefault(writer, {-1: 0})
        if writer in life.last and now <= life.last[writer]:
            yield life
            life = Life({}, {}, set(), 0.0)
        if now - 1 not in known:
            raise Wrong(f"writer {writer}: {now} has no {now - 1} before it")
        if writer in life.last and now != life.last[writer] + 1:
            raise Wrong(f"writer {writer}: {now} follows {life.last[writer]}")
        known[now] = link(known[now - 1], int(writer), now) if chain else 0
        if chain and int(chain, 16) != known[now]:
            raise Wrong(f"task {writer}: the sum in line {now} is another: {line!r}")
        life.first.setdefault(writer, now)
        life.last[writer] = now
    yield life


class Victim:
    """proof.py in a step of its own: srun --cr."""

    good = 0  # its exit status when all is well

    def __init__(self, login: Login, shape: Shape) -> None:
        self.login, self.shape = login, shape
        self.images = f"{login.dir}/images"
        self.script_alone = False  # whether only the script counts, its step being lost
        self.only_n0 = False  # whether another node would not see them
        self.program = login.victim("proof.py")
        self.process: subprocess.Popen[str] | None = None
        self.name = ""  # what pycr is told: JOB.STEP or JOB
        self.step = ""  # the step in which proof.py is
        self.lives = 0

    @property
    def writers(self) -> set[str]:
        """Who writes lines to its output."""
        return {str(task) for task in range(self.shape.tasks)}

    def options(self) -> list[str]:
        """Return how large and where, as srun and sbatch have it."""
        nodes = self.shape.nodes
        return [f"-N{len(nodes)}", f"-n{self.shape.tasks}", f"-w{','.join(nodes)}"]

    def start(self) -> None:
        """Begin, and wait until every task works."""
        self._live("srun", "--cr", "-K", *self.options(), self.program, str(self.shape.mib))

    def _live(self, *command: str) -> None:
        seen = self.beats()
        before = set(self.login.steps())
        self.lives += 1
        with open(self.output(), "w") as out:
            self.process = self.login.popen(*command, stdout=out, stderr=subprocess.STDOUT)
        until("the victim to work", lambda: self.works_since(seen) or self._ended_early(), 30)
        self.step = until("its step", lambda: sorted(set(self.login.steps()) - before))[0]
        self.name = self.step

    def _ended_early(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise Wrong(f"the victim ended: {self.process.returncode}: {self.tail()}")
        return False

    def tail(self) -> str:
        """Return the end of its output, for a message."""
        return self.output().read_text(errors="replace")[-300:]

    def output(self) -> Path:
        """Return where its present life's output goes."""
        return self.login.place / f"out.{self.lives}"

    def beats(self) -> list[int]:
        """Return the number that each task has come to, -1 where it has not begun."""
        found = []
        for task in range(self.shape.tasks):
            found.append(-1)
            with suppress(OSError), open(self.login.place / f"file.{task}", "rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size - 100))
                lines = file.read().split(b"\n")
                if len(lines) > 1:
                    words = lines[-2].split()
                    found[-1] = int(words[2 if words[1] == b"end" else 1])
        return found

    def heard(self) -> list[int]:
        """Return the number from which on a restart may say things again."""
        return self.beats()

    def files(self) -> list[str]:
        """Return what each task has written to its file."""
        return [self.login.read(f"file.{task}") for task in range(self.shape.tasks)]

    def works_since(self, beats: list[int]) -> bool:
        """Tell whether every task has done something since beats()."""
        return all(now > then for now, then in zip(self.beats(), beats))

    def states(self) -> list[str]:
        """Return what Slurm says of the job's state, [] where it knows none."""
        job = self.name.partition(".")[0]
        done = self.login.run("scontrol", "-o", "show", "job", job)
        return re.findall(r"JobState=(\w+)", done.stdout)

    def over(self) -> bool:
        """Tell whether it has ended, as far as Slurm knows."""
        return self.states()[:1] in [[each] for each in (*OVER, "COMPLETING")]

    def stop(self) -> None:
        """Let it, and what is restarted of it, come to its end."""
        (self.login.place / "stop").touch()

    def end(self, seconds: float) -> int:
        """Wait for its end; return its exit status."""
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise Wrong(f"the victim's srun has not ended in {seconds:.0f} s") from error

    def restart(self, generation: str) -> tuple[int, str]:
        """Restart it from a generation, to its end; return its status and its output."""
        where = [f"-N{len(self.shape.nodes)}", *(["-wn0"] if self.only_n0 else [])]
        done = self.login.pycr("restart", generation, "-K", *where, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def text(self) -> str:
        """Return all that its lives have written so far, one after the other."""
        outputs = (self.login.place / f"out.{each + 1}" for each in range(self.lives))
        text = "".join(path.read_text(errors="replace") for path in outputs)
        return SLURM_SAYS.sub("", text)  # which a restart takes out of a job's output


class Restored(Victim):
    """The same, vacated and restarted before the round begins: its tasks are in pods."""

    def start(self) -> None:
        super().start()
        done = self.login.pycr("vacate", self.name, "--image-dir", self.images)
        if done.returncode:
            raise Wrong(f"the first vacate: {done.stderr}")
        self.end(20)
        nodes = self.options()
        where = ["--image-dir", self.images, self.name, "-K", nodes[0], nodes[2]]
        self._live("pycr", "restart", *where)


class Batch(Victim):
    """A batch script that writes lines of its own, and proof.py in its step."""

    good = 7

    def works_since(self, beats: list[int]) -> bool:
        if not self.script_alone:
            return super().works_since(beats)
        return self.said() > beats[-1]

    def beats(self) -> list[int]:
        return [*super().beats(), self.said()] if self.script_alone else super().beats()

    def heard(self) -> list[int]:
        """What its srun was holding back, a checkpoint keeps, and a restart says first."""
        lines = re.findall(r"^(\d+) (\d+) ", self.text(), re.M)
        last = {int(task): int(number) for task, number in lines}
        return [min(beat, last.get(task, -1)) for task, beat in enumerate(super().beats())]

    def said(self) -> int:
        """Return the number that the script has come to."""
        return max(map(int, re.findall(r"^S (\d+)$", self.text(), re.M)), default=-1)

    @property
    def writers(self) -> set[str]:
        return {*super().writers, "S"}

    def start(self) -> None:
        script = self.login.place / "job.sh"
        script.write_text(SCRIPT.format(command=f"{self.program} {self.shape.mib}"))
        words = [
            "--parsable",
            "-o",
            "out.1",
            "--open-mode=append",
            "--no-requeue",
            "-J",
            "job",
            *self.options(),
        ]
        done = self.login.run("sbatch", *words, "job.sh")
        if done.returncode:
            raise Wrong(f"sbatch: {done.stderr}")
        self.name = done.stdout.strip()
        self.lives = 1
        until("the victim to work", lambda: self.works_since([-1] * self.shape.tasks))
        until("the script to write", lambda: "S " in self.text())
        self.step = self.login.step()

    def end(self, seconds: float) -> int:
        return self._status(self.name, seconds)

    def _status(self, job: str, seconds: float) -> int:
        def ended() -> str:
            text = self.login.run("scontrol", "-o", "show", "job", job).stdout
            state = re.search(r"JobState=(\w+).* ExitCode=(\d+):", text)
            return state.group(2) if state and state.group(1) in OVER else ""

        return int(until(f"the end of job {job}", ended, seconds))

    def restart(self, generation: str) -> tuple[int, str]:
        before = len(self.text())
        done = self.login.pycr("restart", generation)
        match = re.search(r"Submitted batch job (\d+)", done.stdout)
        if match is None:
            return done.returncode, done.stdout + done.stderr
        status = self._status(match.group(1), 100)
        # What it had written since the checkpoint was cut off, and kept.
        kept = list(self.login.place.glob(f"images/*/cut-{match.group(1)}.batch/*.out.1@*"))
        if not kept:
            return status, self.text()[before:]
        size = int(kept[0].name.rpartition("@")[2])
        said = self.output().read_bytes()[size:].decode(errors="replace")
        return status, SLURM_SAYS.sub("", said)


KINDS: dict[str, type[Victim]] = {"step": Victim, "restored": Restored, "batch": Batch}
