# SPDX-License-Identifier: GPL-2.0-or-later
"""A user at a node's prompt, as tests need one: run things, wait for things, read output.

Owns the polling with deadlines: a test never sleeps a fixed time for something to happen.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pycr.protocol import HELPER_NAME

DEADLINE = 60.0
VICTIMS = Path(__file__).parent / "victims"


def until(what: str, probe: Callable[[], Any], deadline: float = DEADLINE) -> Any:
    """Return the first true value of probe(); fail after `deadline` seconds, saying what for."""
    give_up = time.monotonic() + deadline
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > give_up:
            raise AssertionError(f"{what}: not within {deadline:.0f} s")
        time.sleep(0.03)


class Login:
    """One user on one node, with a directory of their own on the shared file system.

    `place` is that directory as this machine sees it, `dir` as the cluster does.
    """

    def __init__(self, cluster: Any, user: str, node: str, place: Path) -> None:
        self.cluster, self.user, self.node, self.place = cluster, user, node, place
        self.dir = f"/shared/{place.relative_to(cluster.shared)}"
        self.started: list[subprocess.Popen[str]] = []

    def run(
        self,
        *command: str,
        input: str | None = None,
        timeout: float = 90,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in `dir` to its end."""
        made: subprocess.CompletedProcess[str] = self.cluster.node(self.node).run(
            self._in_dir(command), user=self.user, input=input, timeout=timeout, env=env
        )
        return made

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command in `dir`."""
        made: subprocess.Popen[str] = self.cluster.node(self.node).popen(
            self._in_dir(command), user=self.user, **options
        )
        self.started.append(made)
        return made

    def sh(self, script: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a shell script."""
        return self.run("bash", "-c", script, **options)

    def _in_dir(self, command: Sequence[str]) -> list[str]:
        return ["env", "-C", self.dir, *command]

    def victim(self, name: str) -> str:
        """Put a victim program where the cluster sees it; return its path there."""
        target = self.place / name
        target.write_bytes((VICTIMS / name).read_bytes())
        target.chmod(0o755)
        return f"{self.dir}/{name}"

    def read(self, name: str) -> str:
        """Return a file of `dir`, "" while it is not there."""
        try:
            return (self.place / name).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def jobs(self) -> list[int]:
        """Return this user's jobs, the newest first."""
        out = self.run("squeue", "-h", "-u", self.user, "-o", "%A").stdout
        return sorted((int(word) for word in out.split()), reverse=True)

    def state(self, job: int | str) -> str:
        """Return a job's state, "" where Slurm knows no such job."""
        words = ("squeue", "-h", "--states=all", "-j", str(job), "-o", "%T")
        return self.run(*words).stdout.strip()

    def steps(self) -> list[str]:
        """Return the user's running steps as JOB.STEP, the newest last, pycr's own included."""
        return [name for name, _ in self._steps()]

    def step(self) -> str:
        """Wait for the user's one running step and return it; one of pycr's own may still end."""

        def look() -> list[str]:
            return [name for name, title in self._steps() if not title.startswith(HELPER_NAME)]

        return str(until("a running step", look)[-1])

    def _steps(self) -> list[tuple[str, str]]:
        """Return the id and the name of each."""
        out = self.run("squeue", "-h", "-s", "-u", self.user, "-o", "%i %j").stdout
        found = re.findall(r"^(\d+\.\d+) (.*)$", out, re.M)
        return sorted(found, key=lambda each: [int(number) for number in each[0].split(".")])

    def pycr(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run pycr."""
        return self.run("pycr", *words, **options)

    def pycr_json(self, *words: str) -> Any:
        """Run pycr with --json; return what it prints."""
        done = self.pycr(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def cancel_all(self) -> None:
        """End what popen() started, cancel the user's jobs and wait until none is left."""
        self.run("scancel", "-u", self.user)
        for process in self.started:
            if process.poll() is None:
                process.kill()
            with suppress(ValueError):  # a test has read it to its end
                process.communicate()
        try:
            until("the user's jobs to end", lambda: not self.jobs(), 15)
        except AssertionError:
            self.run("scancel", "-s", "KILL", "-u", self.user)
            until("the user's jobs to end", lambda: not self.jobs(), 30)
