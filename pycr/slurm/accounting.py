# SPDX-License-Identifier: GPL-2.0-or-later
"""The earlier lives of a job as Slurm's accounting has them, where there is accounting."""

from __future__ import annotations

from typing import NamedTuple

from pycr.errors import SlurmError
from pycr.slurm import commands

# Nothing that the user chooses: a JobName may have a newline, and what looks like a row behind it.
_FORMAT = "JobIDRaw,User,Submit,Start,End,State,NodeList"


class Row(NamedTuple):
    """One life of a job. Times: seconds since the epoch, None where there is none."""

    job_id: int
    user: str
    submitted: float | None
    start: float | None
    end: float | None
    state: str
    nodes: str


def lives(job_id: int) -> list[Row]:
    """Return a job's lives, oldest first; none where there is no accounting or it is not asked.

    Whatever it fails for: without it a report has less to say, and is one all the same.
    """
    try:
        text = commands.run(
            "sacct", "--noheader", "--allocations", "--duplicates", "--parsable2",
            f"--format={_FORMAT}", f"--jobs={job_id}",
        )  # fmt: skip
    except SlurmError:
        return []
    return parse(text, job_id)


def name(job_id: int) -> str:
    """Return a job's name, "" where accounting has none or is not asked."""
    words = ("--noheader", "--allocations", "--parsable2", "--format=JobIDRaw,JobName")
    try:
        text = commands.run("sacct", *words, f"--jobs={job_id}")
    except SlurmError:
        return ""
    rows = (line.partition("|") for line in text.splitlines())
    return next((rest for number, _, rest in rows if number == str(job_id)), "")


def parse(text: str, job_id: int) -> list[Row]:
    """Return the rows of sacct's answer that are of this job."""
    found = []
    for line in text.splitlines():
        words = line.split("|")
        if len(words) != len(_FORMAT.split(",")) or words[0] != str(job_id):
            continue
        _, user, submitted, start, end, state, nodes = words
        found.append(
            Row(
                job_id, user, seconds(submitted), seconds(start), seconds(end),
                state.split(" ")[0], nodes,  # "CANCELLED by 1001"
            )
        )  # fmt: skip
    return sorted(found, key=lambda row: (row.submitted or 0.0, row.start or 0.0))


def seconds(text: str | None) -> float | None:
    """Return a time as Slurm's commands print it for pycr; None for Unknown and the like."""
    return float(text) if text and text.isdigit() and text != "0" else None
