# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/migration.md: what it names as there is there."""

from __future__ import annotations

import re
from pathlib import Path

from pycr import config
from pycr.cli import VERBS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "migration.md").read_text()
COMING = ("able", "enable", "disable", "error", "tasks", "complete", "status")


def test_options_and_variables_are_the_plugins() -> None:
    """Those of srun and sbatch, but for pycr's own."""
    options = (ROOT / "spank_cr" / "options.pxi").read_text()
    known = set(re.findall(r'cr_option_add\(sp, b"([a-z-]+)"', options))
    then = set(re.findall(r"`(?:srun|sbatch) --([a-z-]+)", TEXT))
    assert {"checkpoint", "checkpoint-dir", "restart-dir", "cr"} <= then
    assert then <= known
    sources = "".join(path.read_text() for path in (ROOT / "spank_cr").glob("*.pxi"))
    for name in re.findall(r"\bS(?:LURM|BATCH)_((?:CHECKPOINT|RESTART|SRUN_CR)[A-Z_]*)", TEXT):
        assert f'"{name}"' in sources or f'"SLURM_{name}"' in sources, name


def test_verbs_and_their_options() -> None:
    """Those that pycr has; a verb that no module is for would be none."""
    for verb in set(re.findall(r"`pycr ([a-z]+)", TEXT)):
        assert verb in {*VERBS, *COMING}, verb
    for module in {module for module, _ in VERBS.values()}:
        assert (ROOT / "pycr" / "cli" / f"{module}.py").exists()
    code = "".join(path.read_text() for path in (ROOT / "pycr" / "cli").glob("*.py"))
    for option in ("max-wait", "image-dir", "stick", "job-id", "keep"):
        assert f"--{option}" in TEXT
        assert f'"--{option}"' in code, option


def test_settings() -> None:
    """Of plugstack.conf."""
    for key in ("checkpoint_dir", "max_wait", "after_checkpoint", "criu"):
        assert key in TEXT and key in config.KEYS


def test_links() -> None:
    for name in re.findall(r"\]\(([a-z-]+\.md)\)", TEXT):
        assert (ROOT / "docs" / name).exists(), name
