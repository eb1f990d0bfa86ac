# SPDX-License-Identifier: GPL-2.0-or-later
"""What every load scenario stands on: a cluster, users with a place each, times, and figures.

A figure is a ratio of two things measured in the same run, so that it means something on another
machine; times themselves are printed beside it and never asserted.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.cluster import Cluster
from tests.login import Login, until
from tests.victims.ticking import Ticking

TICK = {"TICK": "0.2"}  # seconds: dozens of victims share what cores there are
PLENTY = 600.0  # seconds that anything here may take
CRIU = "criu dump --shell-job --manage-cgroups=ignore -v0 -t @ -D images.@"


class Bed:
    """One scenario's cluster, users and figures."""

    def __init__(self, name: str, nodes: int) -> None:
        self.name = name
        self.figures: dict[str, float] = {}
        self.cluster = Cluster.up(nodes=nodes)
        self.logins: list[Login] = []

    def login(self, user: str, what: str = "0") -> Login:
        """Return a user with a fresh directory."""
        place = self.cluster.shared / "load" / f"{user}-{self.name}-{what}-{time.monotonic_ns()}"
        place.mkdir(mode=0o700, parents=True)
        place.parent.chmod(0o755)
        user_id = int(self.cluster.node("n0").run(["id", "-u", user]).stdout)
        os.chown(place, user_id, user_id)
        self.logins.append(Login(self.cluster, user, "n0", place))
        return self.logins[-1]

    def close(self) -> None:
        """Cancel what its users left, and remove their directories."""
        for login in self.logins:
            login.cancel_all()
        for login in self.logins:
            shutil.rmtree(login.place, ignore_errors=True)

    def figure(self, name: str, value: float, comment: str = "") -> None:
        """Print and keep one."""
        self.figures[name] = round(value, 3)
        print(f"  {name:<52} {value:9.2f}   {comment}", flush=True)

    def ratio(self, name: str, ours: float, theirs: float) -> None:
        """Print and keep the ratio of two times in seconds."""
        self.figure(name, ours / theirs, f"{ours:.2f} s / {theirs:.2f} s")

    def summary(self) -> str:
        """Return all figures as a line of JSON."""
        return json.dumps({"load": self.name, **self.figures})


def timed(action: Callable[[], Any]) -> float:
    """Return the seconds that it took."""
    began = time.monotonic()
    action()
    return time.monotonic() - began


def median(action: Callable[[], Any], rounds: int = 3) -> float:
    """Return the median of the seconds that it took."""
    return statistics.median(timed(action) for _ in range(rounds))


def must(login: Login, *command: str) -> str:
    """Run a command that has to succeed; return what it prints."""
    done = login.run(*command, timeout=PLENTY)
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


def start(login: Login, tasks: int, *options: str, status: str = "0", mib: int = 0) -> Ticking:
    """Start a step of slow tickers and wait until all of them tick."""
    step = Ticking(login, tasks, status, str(mib))
    step.start(*options, cr=False, env=TICK)
    return step


def raw(login: Login, tasks: int, victim: str) -> float:
    """Dump as many plain victims by criu alone, one for each core at a time; return the seconds."""
    script = (
        f"rm -f beat.* stop; for i in $(seq {tasks}); do"
        f" TICK=0.2 SLURM_PROCID=$i setsid {victim} </dev/null >/dev/null 2>&1 &"
        f" echo $! >> pids; mkdir images.$!; done"
    )
    assert login.sh(script).returncode == 0
    until("the plain victims", lambda: len(list(login.place.glob("beat.*"))) == tasks, PLENTY)
    took = timed(lambda: must(login, "sh", "-c", f"xargs -P{os.cpu_count()} -I@ {CRIU} < pids"))
    login.sh("rm -rf images.* pids beat.*")
    return took


def end_all(steps: Sequence[Ticking]) -> None:
    """Let steps end, and see that none of them lost or repeated a line."""
    for step in steps:
        (step.login.place / "stop").touch()
    for step in steps:
        assert step.end() == 0, step.err[-2000:]
        step.whole()
