# SPDX-License-Identifier: GPL-2.0-or-later
"""Shell completion: what can stand at the cursor, and that bash, zsh and fish put it there."""

from __future__ import annotations

import argparse
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pycr import cli
from pycr.cli import completion

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "pycr/completion"
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
SET_UP = {
    "bash": f"source {SCRIPTS}/pycr; PS1='rea''dy> '\n",
    "zsh": f"fpath=({SCRIPTS} $fpath); autoload -Uz compinit; compinit -u -D;"
    " unsetopt zle_bracketed_paste; PROMPT='rea''dy> '\n",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with images in it and a `pycr` in PATH, which prints its words when it is run."""
    program = tmp_path / "bin/pycr"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --complete ]; then\n'
        f'    PYTHONPATH={ROOT} exec {sys.executable} -m pycr.cli "$@"\nfi\n'
        'printf "got"; printf "<%s>" "$@"; echo\n'
    )
    program.chmod(0o755)
    for name in ("images/12.0/0001", "images/12.1", "images/13.batch", "a b/c", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CHECKPOINT_DIR", str(tmp_path / "images"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(*typed: str) -> list[str]:
    """Return what can stand for the last word."""
    *before, word = typed
    return sorted({name for name, _ in completion.choices(before, word) if name.startswith(word)})


def test_every_verb_tells_its_options() -> None:
    for verb in cli.VERBS:
        parser = completion.parser_of(verb)
        assert isinstance(parser, argparse.ArgumentParser), verb
        assert "--help" in words(verb, "--"), verb
    assert cli.VerbParser.asked is None


def test_what_can_stand_where(place: Path) -> None:
    assert words("sho") == ["show"]
    assert words("--debug", "st") == ["status"]
    assert words("--ver") == ["--version"]
    assert set(cli.VERBS) <= set(words(""))
    assert words("ls", "--s") == ["--sort"]
    assert words("ls", "-") == ["--help", "--json", "--sort", "-h"]
    assert words("ls", "--sort", "w") == ["work"]
    assert words("ls", "--sort=w") == ["--sort=work"]
    assert words("create", "--max-wait", "") == []
    assert words("show", "--image-dir", "im") == ["images/"]
    assert words("show", "--image-dir=im") == ["--image-dir=images/"]
    assert words("show", "1") == ["12.0", "12.1", "13"]
    assert words("show", "--image-dir=a b", "1") == []
    assert words("show", "--image-dir", str(place / "images"), "13") == ["13"]
    assert words("show", "images/12.0/") == ["images/12.0/0001/"]
    assert words("rm", "12.0", "~/a") == ["~/a b/"]
    assert words("show", "12.0", "") == []  # there is no second one
    assert words("nonsense", "") == []
    assert words("verify", ".h") == [".hidden/"]


def test_bash_cuts_words_at_the_equal_sign() -> None:
    assert completion.joined(["ls", "--sort", "=", "w"]) == (["ls", "--sort=w"], 7)
    assert completion.joined(["ls", "--sort", "="]) == (["ls", "--sort="], 7)
    assert completion.joined(["ls", r"a\ b", "'c d"]) == (["ls", "a b", "c d"], 0)
    assert completion.joined([]) == ([], 0)


def test_names_that_are_no_words_are_left_out(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "bad\nname").mkdir()
    assert completion.run(["zsh", "show", "b"]) == 0
    assert capsys.readouterr().out == "bin/\tdirectory\n"
    assert completion.run([]) == 0


@contextmanager
def terminal(shell: str) -> Iterator[int]:
    """A shell at a terminal of its own."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.environ["TERM"] = "dumb"
            os.execvp(SHELLS[shell][0], SHELLS[shell])
        finally:
            os._exit(127)
    try:
        os.write(terminal, SET_UP[shell].encode())
        expect(terminal, "ready> ")
        yield terminal
    finally:
        os.close(terminal)  # it hangs up
        os.waitpid(pid, 0)


def expect(terminal: int, wanted: str) -> None:
    """Read until there is what is wanted."""
    seen, give_up = "", time.monotonic() + 30
    while wanted not in seen:
        ready = select.select([terminal], [], [], max(0, give_up - time.monotonic()))[0]
        assert ready, f"no {wanted!r} in {seen!r}"
        seen += os.read(terminal, 65536).decode(errors="replace")


@pytest.mark.parametrize("shell", SHELLS)
def test_at_a_terminal(place: Path, shell: str) -> None:
    with terminal(shell) as typed:
        for keys, wanted in (
            ("pycr stat\t4711\n", "got<status><4711>"),
            (
                "pycr show --image-dir=im\t --js\t 13\t\n",
                "got<show><--image-dir=images/><--json><13>",
            ),
            ("pycr ls --sort=w\t\n", "got<ls><--sort=work>"),
            ("pycr verify a\\ \tc\t\n", "got<verify><a b/c/>"),
            ("pycr rm ~/im\t12.0\t\t\n", f"got<rm><{place}/images/12.0/0001/>"),
        ):
            os.write(typed, keys.encode())
            expect(typed, wanted)


def test_fish(place: Path) -> None:
    def complete(line: str) -> list[str]:
        script = f"source {SCRIPTS}/pycr.fish; complete -C {line!r}"
        done = subprocess.run(["fish", "-c", script], capture_output=True, text=True, check=True)
        return [each.split("\t")[0] for each in done.stdout.splitlines()]

    assert complete("pycr stat") == ["status"]
    assert complete("pycr show 1") == ["12.0", "12.1", "13"]
    assert complete("pycr ls --sort=w") == ["--sort=work"]
    assert complete("pycr ls --sort ") == ["age", "size", "step", "work"]
    assert complete("pycr verify im") == ["images/"]
