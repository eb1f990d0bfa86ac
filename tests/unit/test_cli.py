# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: what it takes for what, its help, and its way out."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from pycr import cli, errors
from pycr.cli import checkpoint, restart
from pycr.errors import UsageError

ROOT = Path(__file__).parents[2]


def pycr(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pycr.cli", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("12", (12, None)), ("12.0", (12, 0)), ("012.07", (12, 7)), ("999999999", (999999999, None))],
)
def test_step_id(text: str, wanted: tuple[int, int | None]) -> None:
    assert cli.step_id(text) == wanted


@pytest.mark.parametrize(
    "text",
    ["", ".", "12.", ".0", "12.0.1", "-1", "+1", "1e3", " 12", "12\n", "12.batch", "1" * 10, "١٢"],
)
def test_no_step_id(text: str) -> None:
    with pytest.raises(UsageError, match=r"neither JOB nor JOB.STEP"):
        cli.step_id(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (100 * 1024, "100 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (2 << 40, "2.0 TiB"),
        (5000 << 40, "5000.0 TiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert cli.size(count) == text


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ([], False),
        (["-N2"], True),
        (["-N", "2"], True),
        (["--nodes=2"], True),
        (["--nodes", "2-3"], True),
        (["-wn1"], True),
        (["--nodelist=n1"], True),
        (["-F", "file"], True),
        (["--nodefile=f"], True),
        (["-n4", "--ntasks-per-node=2"], False),
        (["--exclude=n1", "-x", "n2"], False),
        (["-o", "out", "--time=1"], False),
        (["--no-kill"], False),
        (["--nodelistless"], False),
    ],
)
def test_names_nodes(options: list[str], wanted: bool) -> None:
    assert restart.names_nodes(options) is wanted


@pytest.mark.parametrize("text", ["1", "60", "2147483647"])
def test_max_wait(text: str) -> None:
    assert checkpoint.seconds(text) == int(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "soon", "2147483648", "²", "1 "])
def test_no_max_wait(text: str) -> None:
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):  # argparse tells both
        checkpoint.seconds(text)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_every_verb(verb: str) -> None:
    done = pycr(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"usage: pycr {verb}" in done.stdout
    assert cli.VERBS[verb][1][1:] in " ".join(done.stdout.split())
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_help_names_every_verb() -> None:
    done = pycr("--help")
    assert done.returncode == 0
    for verb, (_, line) in cli.VERBS.items():
        assert f"  {verb}" in done.stdout
        assert line in done.stdout


@pytest.mark.parametrize("verb", ["create", "vacate", "ls", "show", "rm", "doctor"])
def test_json_on_all(verb: str) -> None:
    assert "--json" in pycr(verb, "--help").stdout


def test_version() -> None:
    done = pycr("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "pycr")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["create"],
        ["create", "x"],
        ["create", "1", "2"],
        ["create", "1", "--max-wait=0"],
        ["vacate", "1", "--independent"],
        ["create", "1", "--max"],
        ["ls", "--nonsense"],
    ],
    ids=" ".join,
)
def test_bad_usage(words: list[str]) -> None:
    done = pycr(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_every_error_has_a_status_of_its_own() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.PycrError)
    ]
    statuses = [kind.exit_status for kind in kinds]
    assert len(set(statuses)) == len(statuses)
    for kind in kinds:
        line = next(line for line in errors.__doc__.splitlines() if f"{kind.__name__} " in line)
        assert str(kind.exit_status) in line.split()
        assert not kind.eslurm or kind.eslurm < 10000


def test_ls_of_a_closed_pipe(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m pycr.cli ls --help | true; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Traceback" not in done.stderr
