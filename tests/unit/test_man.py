# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of scontrol's verbs: each is there, and has every option that its parser has."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
from pathlib import Path

import pytest

from pycr import cli

ROOT = Path(__file__).parents[2]
MAN = runpy.run_path(str(ROOT / "docs/man/make.py"))
PAGES: dict[str, str] = MAN["pages"]()
VERBS = [
    "able",
    "complete",
    "create",
    "disable",
    "enable",
    "error",
    "requeue",
    "restart",
    "tasks",
    "vacate",
]


def test_a_page_for_each_verb(tmp_path: Path) -> None:
    """And groff has nothing to say against any."""
    assert sorted(PAGES) == [f"pycr-{verb}.1" for verb in VERBS]
    for path in MAN["write"](tmp_path):
        done = subprocess.run(
            ["groff", "-man", "-ww", "-Tutf8", "-z", str(path)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr == ""


@pytest.mark.parametrize("verb", VERBS)
def test_options_are_those_of_the_parser(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is described, shown in the synopsis, and none that is not there."""
    module = importlib.import_module(f"pycr.cli.{cli.VERBS[verb][0]}")
    with pytest.raises(SystemExit):
        module.run(verb, ["--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    page = PAGES[f"pycr-{verb}.1"].replace("\\-", "-")
    synopsis = page.split(".SH SYNOPSIS")[1].split(".SH")[0]
    assert set(re.findall(r"--[a-z-]+", synopsis)) == options
    described = re.findall(r"^\.TP\n\.BI? \"?(--[a-z-]+)", page, re.MULTILINE)
    assert sorted(described) == sorted(options)
    assert f"pycr-{verb} - {cli.VERBS[verb][1]}" in page or verb == "enable"
