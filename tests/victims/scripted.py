# SPDX-License-Identifier: GPL-2.0-or-later
"""How tests drive a batch script: one job over all its lives, and what it has left at its end.

A life's moments are words like "vacate b.0 2": checkpoint by that verb as soon as the text after it
stands in a file that the job writes, and go on by what belongs to the verb.
"""

from __future__ import annotations

import os
import re
import time
from typing import NamedTuple

from tests.login import VICTIMS, Login, until

SCRIPT, LOG = "script", "log"
NODES = 4
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
ASK = 0.25  # seconds between questions to Slurm: several jobs are waited for at once
# What Slurm adds to a job's output: when the job is ended, and while a step's CPUs are busy yet.
SLURM_SAYS = re.compile(
    r"(?:slurmstepd[^ ]*:|\[[^]\n]*\]) error: \*\*\* (?:JOB|STEP) .*\n"
    r"|srun: (?:Job \d+ )?[Ss]tep (?:creation temporarily disabled|created).*\n"
)
# srun tells the ends of tasks together or one by one, as they come.
EXITED = re.compile(r"(?:srun: error: node: tasks? [\d,-]+(: Exited with exit code \d+\n))+")
NODE = re.compile(r"srun: error: n\d:")  # a restarted task is elsewhere


class Left(NamedTuple):
    """What a job has left: its output, the files it made, and how it ended."""

    log: str
    files: dict[str, str]
    status: str

    def by_source(self) -> Left:
        """Sort lines by their first word: of several writers, only each one's order is fixed."""
        lines = sorted(self.log.splitlines(), key=lambda line: line.split(" ")[0])
        return self._replace(log="\n".join(lines))


class Scripted:
    """A batch script's job, in a directory of its own below a Login's."""

    def __init__(self, login: Login, name: str, text: str, *options: str, **env: str) -> None:
        place = login.place / name
        self.login = Login(login.cluster, login.user, login.node, place)
        place.mkdir()
        for each, data in ((SCRIPT, text.encode()), ("say.sh", _say())):
            (place / each).write_bytes(data)
            (place / each).chmod(0o755)
        owner = login.place.stat()
        for path in (place, *place.iterdir()):
            os.chown(path, owner.st_uid, owner.st_gid)
        self.made = {path.name for path in place.iterdir()} | {LOG, "end"}
        self.options, self.env = options, env
        self.lives = 0
        self.job_id = ""

    def start(self) -> None:
        """Submit it."""
        words = ["--parsable", "-o", LOG, "-J", SCRIPT, *self.options, *self._nodes(), SCRIPT]
        done = self.login.run("sbatch", *words, env=self.env)
        assert done.returncode == 0, done.stderr
        self.job_id = done.stdout.strip()

    def _nodes(self) -> list[str]:
        """Have each life on other nodes than the one before."""
        self.lives += 1
        count = 2 if "-N2" in self.options else 1
        names = [f"n{(self.lives + place) % NODES}" for place in range(count)]
        return [f"--nodelist={','.join(names)}"]

    def until(self, text: str) -> None:
        """Wait until the job runs and a text stands in a file that it writes."""
        asked = 0.0

        def look() -> bool:
            nonlocal asked
            if time.monotonic() < asked or not any(text in data for data in self.files().values()):
                return False
            asked = time.monotonic() + ASK
            state = self.state()["JobState"]
            assert state not in ENDED, f"{state}: {self.left()}"
            return state == "RUNNING"

        until(f"{text!r} in a file of job {self.job_id}", look)

    def pass_by(self, moment: str) -> None:
        """Checkpoint it at a moment, and have it go on."""
        verb, _, text = moment.partition(" ")
        self.until(text)
        where = [] if verb == "requeue" else ["--image-dir", "."]
        done = self.login.pycr(verb, self.job_id, *where)
        assert done.returncode == 0, f"{moment}: {done.stderr}; {self.left()}{self.criu_said()}"
        assert not done.stderr, f"{moment}: {done.stderr}"
        if verb == "vacate":
            self.restart()

    def criu_said(self) -> str:
        """Return the ends of CRIU's logs that there are, for a message."""
        logs = [*self.login.place.glob("**/*.log"), *self.login.place.glob("**/log.*")]
        return "".join(f"\n{path}:\n{path.read_text()[-3000:]}" for path in logs)

    def restart(self, *options: str) -> None:
        """Submit it again, on other nodes, from its newest generation."""
        words = ["--image-dir", ".", self.job_id, *self._nodes(), *options]
        done = self.login.pycr("restart", *words)
        assert done.returncode == 0, done.stderr
        self.job_id = done.stdout.split()[-1]

    def state(self) -> dict[str, str]:
        """Return Slurm's fields of the job."""
        done = self.login.run("scontrol", "-o", "show", "job", self.job_id)
        return dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)

    def files(self) -> dict[str, str]:
        """Return the files that the job has made until now, its output among them."""
        return {
            path.name: path.read_text(errors="replace")
            for path in sorted(self.login.place.iterdir())
            if path.is_file() and (path.name == LOG or path.name not in self.made)
        }

    def left(self) -> Left:
        """Return what there is."""
        files = self.files()
        for name, text in files.items():
            text = NODE.sub("srun: error: node:", SLURM_SAYS.sub("", text))
            files[name] = EXITED.sub(r"srun: error: node: tasks\1", text)
        return Left(files.pop(LOG, ""), files, self.state().get("ExitCode", ""))

    def end(self) -> Left:
        """Wait for its end; return what it has left."""
        asked = 0.0

        def ended() -> bool:
            nonlocal asked
            if time.monotonic() < asked:
                return False
            asked = time.monotonic() + ASK
            return self.state().get("JobState") in ENDED

        until(f"the end of job {self.job_id}", ended, 180)
        return self.left()

    def live(self, moments: list[str]) -> Left:
        """Go through all its lives; return what they have left.

        The script waits for the file "end" before it ends, as a slow machine may come too late.
        """
        self.start()
        for moment in moments:
            self.pass_by(moment)
        return self.finish()

    def finish(self) -> Left:
        """Let it end, wait until it has, and return what it has left."""
        (self.login.place / "end").touch()
        return self.end()


def _say() -> bytes:
    return (VICTIMS / "say.sh").read_bytes()
