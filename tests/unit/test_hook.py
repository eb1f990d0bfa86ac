# SPDX-License-Identifier: GPL-2.0-or-later
"""The site's program after a checkpoint: what it is told, and that it cannot do harm."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pycr.coordinator import hook
from pycr.engine import proc
from pycr.slurm import BATCH


def program(tmp_path: Path, text: str) -> str:
    path = tmp_path / "scch"
    path.write_text(f"#!/bin/sh\nexec > {tmp_path}/said\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(("step", "told"), [(3, "3"), (BATCH, "4294967294")])
def test_its_arguments_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, told: str
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    text = "echo $#; echo $@; pwd; readlink /proc/self/fd/0; ps -o pgid= $$; echo $$; env"
    assert hook.run(program(tmp_path, text), 12, step, 2021, Path("/a b/12.3")) == ""
    said = (tmp_path / "said").read_text().splitlines()
    assert said[:4] == ["4", f"12 {told} 2021 /a b/12.3", "/", "/dev/null"]
    assert said[4].strip() == said[5]
    names = {line.split("=")[0] for line in said[6:]} - {"PWD", "_", "OLDPWD", "SHLVL"}
    assert names == {"PATH", "LC_ALL", "HOME", "USER", "LOGNAME", "SLURM_CONF"}


@pytest.mark.parametrize(
    ("text", "trouble"), [("exit 3", "exit status 3"), ("kill -9 $$", "ended by signal 9")]
)
def test_what_is_said_of_its_failure(tmp_path: Path, text: str, trouble: str) -> None:
    name = program(tmp_path, text)
    assert hook.run(name, 1, 0, 0, tmp_path) == f"{name}: {trouble}"
    os.chmod(name, 0o644)
    assert hook.run(name, 1, 0, 0, tmp_path).startswith(f"{name}: ")
    os.unlink(name)
    assert hook.run(name, 1, 0, 0, tmp_path) == f"{name}: No such file or directory"


def test_it_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It and what it has started are killed; what it has left behind as a daemon is not."""
    monkeypatch.setattr(hook, "LONGEST", 2.0)
    name = program(tmp_path, "sleep 1000 & echo $!; wait")
    began = time.monotonic()
    assert hook.run(name, 1, 0, 0, tmp_path) == f"{name}: not done after 2 s: killed"
    assert time.monotonic() - began < 20
    child = int((tmp_path / "said").read_text())
    give_up = time.monotonic() + 10
    while proc.alive(child) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert not proc.alive(child)


def test_interrupted_when_it_is_too_late(tmp_path: Path) -> None:
    """It is ended, also where the signal came before it; what is made stays made."""
    name = program(tmp_path, "sleep 1000")
    text = f"""
import os, signal
from pathlib import Path
from pycr.coordinator import hook
from pycr.coordinator import interrupt
interrupt.catch()
interrupt.too_late()
signal.setitimer(signal.ITIMER_REAL, 1)
signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
print(hook.run({name!r}, 1, 0, 0, Path("/")))
os.kill(os.getpid(), signal.SIGINT)
print(hook.run({name!r}, 1, 0, 0, Path("/")))
"""
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{name}: interrupted"] * 2
