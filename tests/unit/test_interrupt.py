# SPDX-License-Identifier: GPL-2.0-or-later
"""What interrupts a command does so until it is too late, and never changes what it has said."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pycr.coordinator.interrupt import SIGNALS

HEAD = """
import os, signal
from pycr.coordinator import interrupt
def come():
    os.kill(os.getpid(), {signo:d})
interrupt.catch()
"""


def run(text: str, signo: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HEAD.format(signo=signo) + text],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("signo", SIGNALS)
def test_until_it_is_too_late(signo: int) -> None:
    text = """
try:
    come()
except KeyboardInterrupt:
    come()
    print("given up")
interrupt.too_late()
come()
try:
    with interrupt.heard():
        print("never")
except KeyboardInterrupt:
    print("no longer waited for")
come()
print("made")
"""
    done = run(text, signo)
    assert done.stdout.split("\n")[:-1] == ["given up", "no longer waited for", "made"]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("signo", SIGNALS)
def test_a_second_one(signo: int) -> None:
    """It ends the wait for helpers; the images that the first one gives up go all the same."""
    text = """
from pycr.coordinator import step
class Part(step.Checkpoint):
    ended = False
    def __init__(self, name):
        self.name, self.helpers, self.writer = name, self, self
    def let_go(self):
        print("let go", self.name)
    def end(self):
        print("wait", self.name)
        come()
        print("waited", self.name)
    def abandon(self):
        come()
        print("abandon", self.name)
try:
    come()
except KeyboardInterrupt as error:
    step.undo([Part("a"), Part("b")], error)
    come()
    print("failed")
"""
    done = run(text, signo)
    said = ["let go a", "let go b", "wait a", "abandon a", "abandon b", "failed"]
    assert (done.returncode, done.stderr, done.stdout.splitlines()) == (0, "", said)


@pytest.mark.parametrize("signo", SIGNALS)
def test_on_its_last_way(signo: int) -> None:
    """Python puts handlers back to what ends a process before it has ended."""
    text = """
class Last:
    def __del__(self, come=come):
        come()
        print("last", flush=True)
last = Last()
interrupt.over()
"""
    done = run(text, signo)
    assert (done.returncode, done.stdout, done.stderr) == (0, "last\n", "")
    done = run(text.replace("interrupt.over()", ""), signo)
    assert done.returncode == -signo, "this no longer shows what it is for"
