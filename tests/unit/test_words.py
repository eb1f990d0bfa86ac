# SPDX-License-Identifier: GPL-2.0-or-later
"""What scontrol's words mean, its times, and the numbers that it gave steps."""

from __future__ import annotations

import argparse
import time

import pytest

from pycr import cli
from pycr.cli import able, words
from pycr.errors import UsageError
from pycr.slurm import BATCH

KNOWN = ("image_dir", "max_wait")


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("step")
    parser.add_argument("--image-dir")
    parser.add_argument("--max-wait", type=words.seconds, default=60)
    parser.add_argument("--json", action="store_true")
    return words.parse(parser, argv, KNOWN)


@pytest.mark.parametrize(
    ("argv", "image_dir", "max_wait"),
    [
        ("1.0", None, 60),
        ("1.0 MaxWait=10 ImageDir=/d", "/d", 10),
        ("1.0 imagedir=/D=x MAXWAIT=10", "/D=x", 10),
        ("--json 1.0 MaxWait=1 --image-dir /d MaxWait=2", "/d", 2),
        ("--image-dir a 1.0 ImageDir=b --json", "b", 60),
        ("--max-wait 5 1.0", None, 5),
    ],
)
def test_words(argv: str, image_dir: str | None, max_wait: int) -> None:
    found = parsed(*argv.split(" "))
    assert (found.step, found.image_dir, found.max_wait) == ("1.0", image_dir, max_wait)


@pytest.mark.parametrize(
    "word",
    [
        "MaxWait", "MaxWait=", "MaxWait=0", "MaxWait=ten", "MaxWait=1s", "Max=1", "ImageDir=",
        "ImageDir", "StickToNodes", "x", "", "2.0", "=", "MaxWait=" + "9" * 100,
    ],
)  # fmt: skip
def test_wrong_words(word: str) -> None:
    with pytest.raises(UsageError) as told:
        parsed("1.0", word)
    assert repr(word)[:80] in str(told.value) and len(str(told.value)) < 250


@pytest.mark.parametrize(
    ("more", "image_dir", "stick", "rest"),
    [
        ([], None, False, []),
        (["StickToNodes"], None, True, []),
        (["stick", "ImageDir=/d", "-N2", "x"], "/d", True, ["-N2", "x"]),
        (["imagedir=d", "sTICKtON"], "d", True, []),
        (["--image-dir", "d", "--stick", "-N", "2"], "d", True, ["-N", "2"]),
        (["--image-dir=d", "-N2", "--stick"], "d", False, ["-N2", "--stick"]),
        (["-N2", "StickToNodes"], None, False, ["-N2", "StickToNodes"]),
    ],
)
def test_words_of_a_restart(
    more: list[str], image_dir: str | None, stick: bool, rest: list[str]
) -> None:
    found = argparse.Namespace(image_dir=None, stick=False)
    own, left = words.behind(more)
    words.take(own, found, ("image_dir", "stick"))
    assert (found.image_dir, found.stick, left) == (image_dir, stick, rest)


@pytest.mark.parametrize("word", ["stic", "sticky", "StickToNodes=1", "MaxWait=1", "x"])
def test_wrong_words_of_a_restart(word: str) -> None:
    with pytest.raises(UsageError, match="ImageDir=DIR or StickToNodes"):
        words.take([word], argparse.Namespace(), ("image_dir", "stick"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("12.4294967294", (12, None)),
        ("12.4294967291", (12, BATCH)),
        ("12.429496729", (12, 429496729)),
    ],
)
def test_numbers_of_steps(text: str, wanted: tuple[int, int | None]) -> None:
    assert cli.step_id(text) == wanted


@pytest.mark.parametrize("text", ["12.4294967295", "12.4294967290", "4294967294", "x.4294967294"])
def test_no_numbers_of_steps(text: str) -> None:
    with pytest.raises(UsageError):
        cli.step_id(text)


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        (None, "2026-11-21T13:30:05"),
        ("", "2026-11-21T13:30:05"),
        ("standard", "2026-11-21T13:30:05"),
        ("%s", "1795267805"),
        ("%d %b", "21 Nov"),
        ("%A" * 15, "#" * 31),
        ("ISO", "2026-11-21T13:30:05"),
        ("%d" * 16, "2026-11-21T13:30:05"),
    ],
)
def test_times(monkeypatch: pytest.MonkeyPatch, form: str | None, wanted: str) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.delenv("SLURM_TIME_FORMAT", raising=False)
    if form is not None:
        monkeypatch.setenv("SLURM_TIME_FORMAT", form)
    try:
        assert able.when(1795267805) == wanted
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("days", "wanted"),
    [
        (-400, "%-d %b %Y"), (-2, "%-d %b %H:%M"), (-1, "Ystday %H:%M"), (0, "%H:%M:%S"),
        (1, "Tomorr %H:%M"), (6, "%a %H:%M"), (7, "%-d %b %H:%M"),
    ],
)  # fmt: skip
def test_relative_times(days: int, wanted: str) -> None:
    now = 1795267805
    assert able.relative(time.gmtime(now + days * 86400), time.gmtime(now)) == wanted
