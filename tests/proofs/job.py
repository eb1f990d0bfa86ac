# SPDX-License-Identifier: GPL-2.0-or-later
"""One job of a proof: started, looked at, compared with an unbroken run, its figures kept.

Owns the files that a proof leaves: report.json and report.svg (pycr report), journal (of the job).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.login import Login, until
from tests.victims.scripted import ENDED, Left, Scripted

# What pycr adds to a job's output where a life that was cut short had written on after the
# checkpoint: it says what it has cut off a file.
CUT_BACK = re.compile(r"^pycr: .* was cut back from .*\n", re.MULTILINE)
SELDOM = 1.0  # seconds
PATIENCE = 120.0  # seconds for what a busy machine does in ten


class Job(Scripted):
    """A batch script's job in a directory of its own below its user's; images in the default one.

    victims: programs of tests/victims that stand beside the script.
    """

    def __init__(
        self, login: Login, name: str, text: str, *options: str, victims: tuple[str, ...] = ()
    ) -> None:
        super().__init__(login, name, text, *options)
        for each in victims:
            self.login.victim(each)
            self.made.add(each)

    def _nodes(self) -> list[str]:
        return []

    def journal(self, *events: str) -> list[dict[str, Any]]:
        """Return the events of its journal with one of these names, or all."""
        found = journal(self.login, self.job_id)
        return [each for each in found if not events or each["event"] in events]

    def runs(self, restarts: int) -> bool:
        """Tell whether it runs, started again so many times; fail where it is over."""
        state = self.state()
        assert state["JobState"] not in ENDED, f"{state['JobState']}: {self.left()}"
        return (state["JobState"], state.get("Restarts")) == ("RUNNING", str(restarts))

    def life(self, restarts: int, seconds: float = PATIENCE) -> None:
        """Wait until it has been started again so many times and its program goes on."""
        until(f"start {restarts} of job {self.job_id}", lambda: self.runs(restarts), seconds)
        before = self.progress()
        until(f"life {restarts} to go on", lambda: self.progress() > before, seconds)

    def progress(self) -> int:
        """Return how much its tasks have written of their own, in bytes."""
        return sum(path.stat().st_size for path in self.login.place.glob("**/file.*"))

    def left(self) -> Left:
        """Return what there is, without what Slurm and pycr have said."""
        found = super().left()
        return found._replace(log=CUT_BACK.sub("", found.log))

    def over(self, seconds: float) -> Left:
        """Wait for its end; return what it has left."""

        def ended() -> bool:
            return self.state().get("JobState") in ENDED

        until(f"the end of job {self.job_id}", seldom(ended), seconds)
        return self.left()


def journal_path(login: Login, job_id: str) -> Path:
    """Return where the journal of a user's job is."""
    home: Path = login.cluster.shared / "home" / login.user
    return home / "checkpoint/.journal" / job_id


def journal(login: Login, job_id: str) -> list[dict[str, Any]]:
    """Return the events of a job's journal."""
    path = journal_path(login, job_id)
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def seldom(probe: Callable[[], Any]) -> Callable[[], Any]:
    """Return a probe that asks Slurm no more than once a second, for what goes on for minutes."""
    asked = 0.0

    def ask() -> Any:
        nonlocal asked
        if time.monotonic() < asked + SELDOM:
            return None
        asked = time.monotonic()
        return probe()

    return ask


def same(found: Left, wanted: Left) -> None:
    """See that a run has left what the unbroken one has, byte by byte."""
    assert found.status == wanted.status, f"status {found.status}, not {wanted.status}: {found.log}"
    assert sorted(found.files) == sorted(wanted.files), f"{sorted(found.files)}: {found.log}"
    for name in (*wanted.files, "its output"):
        one, other = found.files.get(name, found.log), wanted.files.get(name, wanted.log)
        if one != other:
            pairs = enumerate(zip(one.splitlines(), other.splitlines()), 1)
            odd = next((pair for pair in pairs if pair[1][0] != pair[1][1]), ("end", len(other)))
            raise AssertionError(f"{name}: not as unbroken, at line {odd[0]}: {odd[1]}")


def record(login: Login, job_id: str, out: Path) -> dict[str, float]:
    """Keep a job's report and journal in `out`; return the report's totals, and `lives`."""
    done = login.pycr("report", job_id, "--json", "-o", "report.svg")
    assert done.returncode == 0, done.stderr
    (out / "report.json").write_text(done.stdout)
    (out / "report.svg").write_bytes((login.place / "report.svg").read_bytes())
    (login.place / "report.svg").unlink()
    (out / "journal").write_bytes(journal_path(login, job_id).read_bytes())
    value = json.loads(done.stdout)
    totals: dict[str, float] = {**value["totals"], "lives": len(value["lives"])}
    return totals


def spell(totals: dict[str, float]) -> str:
    """Return the figures of a report as a line."""
    used = totals["useful"] + totals["overhead"] + totals["lost"]
    words = [
        f"{totals['lives']:.0f} lives",
        f"{totals['checkpoints']:.0f} checkpoints ({totals['failed']:.0f} failed)",
        *(f"{each} {totals[each]:.1f} s" for each in ("useful", "frozen", "restore", "lost")),
        f"queued {totals['queued']:.0f} s",
        f"overhead {100 * totals['overhead'] / used:.1f} %",
    ]
    return ", ".join(words)
