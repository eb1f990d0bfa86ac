# SPDX-License-Identifier: GPL-2.0-or-later
"""One round of each fault that does not take long (tests/faults); `make faults` has the rest.

Left out: what takes Slurm long (a node that is gone, a killed slurmd, the time limit), what is
waited for long (a hung disk, all lost, a lost slurmstepd of a helper), and the clock, which is the
whole machine's. The moments are those of one seed, as far as timing allows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults import plan
from tests.faults.round import Round

SEED = 4
NAMES = plan.names([], short=True)
ROUNDS = [plan.draw(SEED, number, NAMES) for number in range(len(NAMES))]


@pytest.mark.parametrize("wanted", ROUNDS, ids=[each.fault for each in ROUNDS])
def test_fault(cluster: Any, tmp_path: Path, wanted: plan.Plan) -> None:
    result = Round(cluster, wanted).run(tmp_path / "kept")
    assert result.problems == [], f"{wanted}: {result}"


def test_each_once() -> None:
    assert sorted(each.fault for each in ROUNDS) == sorted(NAMES)
