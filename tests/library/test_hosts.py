# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that the library must not disturb, nor be disturbed by; with sanitizers."""

from __future__ import annotations

import os
import subprocess

import pytest

from .conftest import Prefix

# Signals 32 and 33: glibc lets nobody set them, so they stay as this session found them.
GLIBCS = 1 << 31 | 1 << 32


def run(host: Prefix, scene: str, **variables: str) -> None:
    """Run one scene of host.c."""
    done = subprocess.run(
        [host.path / "host", scene, host.path],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1", "PATH": "/nowhere", **variables},
        cwd=host.path,
        check=False,
    )
    assert (done.returncode, done.stderr[:2000]) == (0, "")


@pytest.mark.parametrize("scene", ["ignored", "reaper", "thief", "alarms", "threads"])
def test_program_with_ways_of_its_own(host: Prefix, scene: str) -> None:
    run(host, scene)


def test_a_thousand_calls_leave_nothing(prefix: Prefix) -> None:
    run(prefix, "many")


def test_pycr_starts_clean(host: Prefix) -> None:
    """Whatever streams are closed, descriptors open, signals blocked or ignored in the program."""
    host.plan("exit 0")
    run(host, "untidy")
    fds = dict(line.split(" ", 1) for line in host.reported("fds").splitlines())
    assert sorted(fds) == ["0", "1", "2"]
    assert fds["0"] == fds["2"] == "/dev/null"
    assert fds["1"].startswith("pipe:[")
    status = dict(
        line.split(":\t", 1) for line in host.reported("status").splitlines() if "\t" in line
    )
    for name in ("SigBlk", "SigIgn", "SigCgt"):
        assert int(status[name], 16) & ~GLIBCS == 0, name


def test_holds_nothing_of_the_program_while_it_waits(host: Prefix) -> None:
    host.plan("wait")
    run(host, "pipe")


def test_pycr_that_leaves_somebody_behind(host: Prefix) -> None:
    host.plan("hold")
    run(host, "held")


def test_found_by_a_relative_name(host: Prefix) -> None:
    """pycr is looked for from where the library was when it was loaded."""
    run(host, "moved", LD_LIBRARY_PATH="lib")
