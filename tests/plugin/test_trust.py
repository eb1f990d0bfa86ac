# SPDX-License-Identifier: GPL-2.0-or-later
"""cr_trusted: only what root alone can change is executed with capabilities."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .driver import STEP, USER, Host

FAILED = 125 << 8  # errors.py: RESTORE_FAILED, as a wait status
pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def program(place: Path) -> Path:
    """A trusted program that is there and does nothing, in a directory of its own."""
    path = place / "prefix/bin/python3"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\necho helper 0\n", encoding="ascii")
    path.chmod(0o755)
    return path


def task(host: Host, key: str, path: object, good: Path) -> tuple[list[str], bool]:
    """Run a helper step with this python or criu; return the error and whether it started."""
    args = {"python": good, key: path}
    words = [f"arg {name}={value}" for name, value in args.items()]
    run = host.run([*STEP, *words, "call init", "option cr-helper=7.0", f"task {USER}"])
    started = run.all("helper") == ["0"]
    assert run.status == (0 if started else FAILED)
    assert "command" not in run.lines
    return run.errors, started


def trusted(host: Host, path: object, good: Path) -> None:
    for key in ("python", "criu"):
        assert task(host, key, path, good) == ([], True)


def refused(host: Host, path: object, good: Path, why: str) -> None:
    """Both the interpreter and criu are looked at; the name that the message begins is why's."""
    subjects = {"python": "the helper's interpreter", "criu": "criu"}
    for key, subject in subjects.items():
        assert task(host, key, path, good) == ([f"cr: couldn't trust {subject}: {why}"], False)


def test_what_is_roots_alone(host: Host, program: Path) -> None:
    trusted(host, program, program)


@pytest.mark.parametrize("spelling", ["//{0}", "{1}//bin//python3", "{1}/./bin/../bin/python3"])
def test_however_it_is_spelt(host: Host, program: Path, spelling: str) -> None:
    path = spelling.format(program, program.parent.parent)
    trusted(host, path, program)


def test_links_of_roots_in_places_of_roots(host: Host, program: Path, place: Path) -> None:
    """As in a venv: a relative link to an absolute link, by way of a linked directory."""
    (place / "one").symlink_to(program)
    (place / "two").symlink_to("prefix/../one")
    (place / "three").symlink_to(place)
    (place / "four").symlink_to("three/two")
    trusted(host, place / "four", program)
    trusted(host, place / "three/three/four", program)


def test_a_program_of_another_user(host: Host, program: Path, place: Path) -> None:
    other = place / "other"
    other.touch(0o755)
    os.chown(other, USER, 0)
    refused(host, other, program, f"{other}: does not belong to root")


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_program_others_may_write(host: Host, program: Path, place: Path, mode: int) -> None:
    other = place / "other"
    other.touch()
    other.chmod(mode)
    refused(host, other, program, f"{other}: others than root may write it")


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_directory_others_may_write(host: Host, program: Path, place: Path, mode: int) -> None:
    """A sticky one too: what is not there yet can be put there."""
    other = place / "open/deep"
    other.mkdir(parents=True)
    (other / "python3").touch(0o755)
    other.parent.chmod(mode)
    refused(host, other / "python3", program, f"{other.parent}: others than root may write it")


def test_a_directory_of_another_user(host: Host, program: Path, place: Path) -> None:
    other = place / "theirs/deep"
    other.mkdir(parents=True)
    (other / "python3").touch(0o755)
    os.chown(other.parent, USER, USER)
    refused(host, other / "python3", program, f"{other.parent}: does not belong to root")


def test_a_link_of_another_user(host: Host, program: Path, place: Path) -> None:
    link = place / "link"
    link.symlink_to(program)
    os.lchown(link, USER, USER)
    refused(host, link, program, f"{link}: does not belong to root")


def test_a_link_through_a_directory_of_another_user(host: Host, program: Path, place: Path) -> None:
    """The end of the chain is root's, and its beginning: only the middle can be turned."""
    theirs = place / "theirs"
    theirs.mkdir()
    (theirs / "middle").symlink_to(program)
    (place / "begin").symlink_to(theirs / "middle")
    os.chown(theirs, USER, USER)
    refused(host, place / "begin", program, f"{theirs}: does not belong to root")


def test_a_link_through_a_directory_others_may_write(
    host: Host, program: Path, place: Path
) -> None:
    theirs = place / "open"
    theirs.mkdir()
    (theirs / "middle").symlink_to("../prefix")
    (place / "begin").symlink_to("open/middle")
    theirs.chmod(0o775)
    path = place / "begin/bin/python3"
    refused(host, path, program, f"{theirs}: others than root may write it")


def test_the_way_up_from_a_link_is_looked_at(host: Host, program: Path, place: Path) -> None:
    """`link/..` is the parent of where the link leads, not of the link."""
    theirs = place / "theirs"
    (theirs / "below").mkdir(parents=True)
    (theirs / "python3").touch(0o755)
    (place / "link").symlink_to("theirs/below")
    os.chown(theirs, USER, USER)
    refused(host, place / "link/../python3", program, f"{theirs}: does not belong to root")


def test_a_link_that_leads_nowhere(host: Host, program: Path, place: Path) -> None:
    (place / "link").symlink_to("gone")
    refused(host, place / "link", program, f"{place}/gone: No such file or directory")


def test_links_in_a_circle(host: Host, program: Path, place: Path) -> None:
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    refused(host, place / "a", program, f"{place}/a: Too many levels of symbolic links")


def test_links_that_grow_too_long(host: Host, program: Path, place: Path) -> None:
    (place / "a").symlink_to("./" * 2040 + "a")
    path = f"{place}/a/{'x' * 100}"
    refused(host, path, program, f"{path}: File name too long")


def test_what_is_missing(host: Host, program: Path, place: Path) -> None:
    refused(host, place / "gone/python3", program, f"{place}/gone: No such file or directory")


def test_below_a_file(host: Host, program: Path) -> None:
    refused(host, program / "x", program, f"{program}/x: Not a directory")


@pytest.mark.parametrize("mode", [0o644, 0o700, 0o600])
def test_what_the_user_may_not_execute(host: Host, program: Path, place: Path, mode: int) -> None:
    other = place / "other"
    other.touch()
    other.chmod(mode)
    refused(host, other, program, f"{other}: not an executable file")


def test_a_directory(host: Host, program: Path, place: Path) -> None:
    refused(host, place, program, f"{place}: not an executable file")
    refused(host, "/", program, "/: not an executable file")


def test_a_long_name_is_cut_in_the_message(host: Host, program: Path, place: Path) -> None:
    path = f"{place}/{'x' * 200}/{'y' * 200}"
    Path(path).parent.mkdir()
    refused(host, path, program, f"{path[:256]}: No such file or directory")
