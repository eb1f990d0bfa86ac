# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr drain`: what a job's own facts say of it, and what one is that nobody can be."""

from __future__ import annotations

import os

import pytest

from pycr.coordinator import drain
from pycr.errors import NotSupported, UsageError
from pycr.slurm import Job

BATCH = {"BatchFlag": "1", "Requeue": "1"}


def job(
    state: str = "RUNNING", uid: int = 0, base: dict[str, str] | None = None, **more: str
) -> Job:
    return Job(7, "alice", uid, state, {**(base or {}), **more})


@pytest.mark.parametrize(
    ("made", "steps", "verb", "why"),
    [
        (job(base=BATCH), False, "requeue", ""),
        (job(base=BATCH), True, "requeue", ""),
        (job(BatchFlag="0"), False, "", "it runs no batch script (--vacate-steps)"),
        (job(BatchFlag="0"), True, "vacate", ""),
        (job(BatchFlag="0", JobName="interactive"), True, "", "it is salloc's"),
        (job(BatchFlag="0", HetJobId="6"), True, "", "heterogeneous"),
        (job(base=BATCH, HetJobId="6"), False, "", "heterogeneous"),
        (job(base=BATCH, ArrayJobId="6"), True, "", "scripts of job arrays"),
        (job(BatchFlag="1", Requeue="0"), False, "", "it may not be requeued: scontrol update"),
        (job("SUSPENDED", base=BATCH), False, "", "it is suspended"),
        (job("CONFIGURING", base=BATCH), False, "", "it is configuring"),
    ],
)
def test_what_is_planned(made: Job, steps: bool, verb: str, why: str) -> None:
    """From what Slurm says of the job alone."""
    work = drain.plan_one(made, steps)
    assert work.verb == verb and work.why.startswith(why) and bool(work.why) == (not verb)
    assert work.status == ("planned" if verb else "left")


@pytest.mark.parametrize("nodes", ["", "-w", "n\0"])
def test_what_is_no_list_of_nodes(nodes: str) -> None:
    with pytest.raises(UsageError):
        drain.check_nodes(nodes)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_an_owner_whom_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is begun for them; of root's environment nobody gets anything."""
    with pytest.raises(NotSupported, match="uid 54321"):
        drain.as_owner(job(uid=54321))
    monkeypatch.setenv("LD_PRELOAD", "x")
    monkeypatch.setenv("KRB5CCNAME", "root's")
    made = drain.as_owner(job(uid=65534))
    kept = {"PATH", "HOME", "USER", "LOGNAME", "SLURM_CONF", "SLURM_CONF_SERVER", "LC_ALL"}
    assert set(made["env"]) <= kept
    assert made["user"] == 65534 and 0 not in made["extra_groups"]
