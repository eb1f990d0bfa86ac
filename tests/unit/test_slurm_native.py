# SPDX-License-Identifier: GPL-2.0-or-later
"""What PySlurm says, in scontrol's spelling; and what is not PySlurm is not used."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pycr.errors import SlurmError, UsageError
from pycr.slurm import api, commands, native


@pytest.mark.parametrize(
    ("mebibytes", "text"),
    [(None, ""), (0, ""), (100, "100M"), (2048, "2G"), (3000, "3000M"), (1 << 20, "1T")],
)
def test_memory_is_spelled_as_scontrol_does(mebibytes: int | None, text: str) -> None:
    assert native._size(mebibytes) == text


@pytest.mark.parametrize(
    ("limit", "text"),
    [(None, "UNLIMITED"), (10, "00:10:00"), (1440 + 150, "1-02:30:00")],
)
def test_time_limits_are_spelled_as_scontrol_does(limit: int | None, text: str) -> None:
    assert native._minutes(limit) == text


def test_a_module_that_cannot_be_imported_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyslurm.py").write_text("raise ImportError('undefined symbol: slurm_x')")
    monkeypatch.syspath_prepend(str(tmp_path))
    flags = sys.getdlopenflags()
    api.choice.cache_clear()
    made = api.choice()
    assert made.slurm is commands
    assert made.why == "PySlurm cannot be imported: undefined symbol: slurm_x"
    assert (sys.getdlopenflags(), native.NO_AUTO_INIT in os.environ) == (flags, False)
    api.choice.cache_clear()
    monkeypatch.setenv("PYCR_SLURM", "pyslurm")
    with pytest.raises(SlurmError, match="PYCR_SLURM=pyslurm: PySlurm cannot be imported"):
        api.choice()
    monkeypatch.setenv("PYCR_SLURM", "squeue")
    with pytest.raises(UsageError, match="may be commands or pyslurm"):
        api.choice()
    api.choice.cache_clear()
