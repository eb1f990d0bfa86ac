# SPDX-License-Identifier: GPL-2.0-or-later
"""Standard streams: a restarted step's are the new step's, of whatever kind the old ones were."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.login import Login, until
from tests.victims.ticking import Ticking, gapless

# What a step is given, and in which file each task's stdout and stderr then are; None: a pipe.
KINDS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "pipe": ([], [], []),
    "file": (["-o", "out", "-e", "err"], ["out"], ["err"]),
    "task": (["-o", "out.%t", "-e", "err.%t"], ["out.0", "out.1"], ["err.0", "err.1"]),
    "job": (["-o", "%j.out", "-e", "%j.err"], ["*.out"], ["*.err"]),
}


def collect(job: Ticking, kind: str) -> None:
    """Add what a life has written to files to what the step has written, and remove them."""
    _, out, err = KINDS[kind]
    place = job.login.place
    for patterns, name in ((out, "out"), (err, "err")):
        for path in (path for pattern in patterns for path in sorted(place.glob(pattern))):
            setattr(job, name, getattr(job, name) + path.read_text())
            path.unlink()


@pytest.mark.parametrize(
    "lives",
    [
        ["pipe", "file", "task", "pipe"],
        ["file", "pipe", "job", "task"],
        ["task", "task", "file", "file"],
    ],
    ids="-".join,
)
def test_output_of_every_kind_after_every_other(alice: Login, lives: list[str]) -> None:
    """Four lives, each with streams of another kind: no line is lost, repeated or misplaced."""
    job = Ticking(alice, 2)
    job.start("-N2", *KINDS[lives[0]][0])
    for now, then in zip(lives, lives[1:]):
        job.vacate()
        collect(job, now)
        job.restart(*KINDS[then][0])
    assert job.stop() == 0
    collect(job, lives[-1])
    job.whole()
    assert all(line.count(" ") == 1 for line in job.err.splitlines() if "srun" not in line)


def test_appended_output(alice: Login) -> None:
    """--open-mode=append: every life goes on in the same files, written by slurmstepd's open."""
    job = Ticking(alice, 2)
    options = ["--open-mode=append", "-o", "out.%t", "-e", "err.%t"]
    job.start("-N2", *options)
    for _ in range(2):
        job.create()
        job.vacate()
        job.restart(*options)
    assert job.stop() == 0
    collect(job, "task")
    job.whole()


def test_joined_output_stays_joined(alice: Login) -> None:
    """stdout and stderr on one file, which is restarted onto pipes: both come, in their order."""
    job = Ticking(alice, 1)
    job.start("-o", "out.%t")
    job.vacate()
    first = alice.read("out.0")
    job.restart()
    assert job.stop() == 0
    lines = (first + job.out).splitlines()
    assert [line for line in lines if "pause" not in line][::2] == lines[1::2][: len(lines) // 2]
    gapless("\n".join(lines[::2]), 1)


class Echo:
    """A step of echo.py, which reads stdin, over its lives."""

    def __init__(self, alice: Login, tasks: int = 1) -> None:
        self.alice, self.tasks = alice, tasks
        self.victim = alice.victim("echo.py")
        self.step = ""

    def start(self, *options: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """Begin its first life."""
        made = self.alice.popen(
            "srun", "--cr", f"-n{self.tasks}", *options, "-o", "out", self.victim, stdin=stdin
        )
        until("it to read", lambda: (self.alice.place / "ready").exists())
        self.step = self.alice.step()
        return made

    def vacate(self, process: subprocess.Popen[str]) -> str:
        """Checkpoint and end it; return what it wrote, and remove that."""
        done = self.alice.pycr("vacate", self.step, "--image-dir", ".")
        assert done.returncode == 0, done.stderr
        process.communicate(timeout=30)
        until("the step to go", lambda: self.step not in self.alice.steps())
        text = self.alice.read("out")
        (self.alice.place / "out").unlink()
        return text

    def said(self, count: int) -> None:
        """Wait for so many lines."""
        until("answers", lambda: self.alice.read("out").count("\n") == count)


def feed(process: subprocess.Popen[str], text: str) -> None:
    """Write to a process's stdin."""
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()


def test_stdin_goes_on_with_new_data(alice: Login) -> None:
    """From a pipe: each life reads its own srun's stdin, to its end; also in the third."""
    step = Echo(alice, 2)
    life = step.start("-N2", "-i", "all", stdin=subprocess.PIPE)
    feed(life, "one\n")
    step.said(2)
    assert sorted(step.vacate(life).split("\n")) == ["", "0 one", "1 one"]
    life = alice.popen(
        "pycr", "restart", "--image-dir", ".", step.step, "-o", "out", stdin=subprocess.PIPE
    )
    feed(life, "two\n")
    step.said(2)
    step.step = alice.step()
    assert sorted(step.vacate(life).split("\n")) == ["", "0 two", "1 two"]
    again = alice.pycr("restart", "--image-dir", ".", step.step, input="three\nfour\n")
    assert again.returncode == 0, again.stderr
    assert sorted(again.stdout.splitlines()) == sorted(
        f"{task} {word}" for task in (0, 1) for word in ("three", "four", "end")
    )


def test_stdin_from_a_file_and_from_nothing(alice: Login) -> None:
    """Lives on a file, on another file, and with -i none: each reads its own from the start."""
    (alice.place / "first").write_text("one\nwait\n")
    (alice.place / "second").write_text("two\nwait\n")
    step = Echo(alice)
    life = step.start("-i", "first")
    step.said(2)
    assert step.vacate(life) == "0 one\n0 wait\n"
    (alice.place / "go").touch()
    (alice.place / "third").write_text("three\n")
    again = alice.pycr("restart", "--image-dir", ".", step.step, "-i", "third")
    assert (again.stdout, again.returncode) == ("0 three\n0 end\n", 0), again.stderr
    again = alice.pycr("restart", "--image-dir", ".", step.step, "-i", "none")
    assert (again.stdout, again.returncode) == ("0 end\n", 0), again.stderr


def test_step_without_stdin(alice: Login) -> None:
    """-i none, from the start and after a restart, which may be given one: /dev/null it stays."""
    job = Ticking(alice, 1)
    job.start("-i", "none")
    job.vacate()
    job.restart("-i", "none")
    job.vacate()
    job.restart()
    assert job.stop() == 0
    job.whole()


def test_unread_input_comes_back(alice: Login) -> None:
    """What srun had sent but the task had not read comes before what it is sent anew."""
    step = Echo(alice)
    life = step.start(stdin=subprocess.PIPE)
    feed(life, "one\nwait\nunread\n")
    step.said(2)
    done = alice.pycr("create", step.step, "--image-dir", ".")
    assert (done.returncode, done.stderr) == (0, "")
    assert step.vacate(life) == "0 one\n0 wait\n"
    (alice.place / "go").touch()
    again = alice.pycr("restart", "--image-dir", ".", step.step, input="new\n")
    assert again.stdout == "0 unread\n0 new\n0 end\n", again.stderr


def test_more_input_than_a_pipe_holds_is_told(alice: Login) -> None:
    """What lies in srun and slurmstepd behind a full pipe is not in the image."""
    step = Echo(alice)
    life = step.start(stdin=subprocess.PIPE)
    feed(life, "one\nwait\n" + "unread\n" * 20000)
    step.said(2)
    done = alice.pycr("create", step.step, "--image-dir", ".")
    assert "task 0 on n" in done.stderr
    assert "bytes of its input, and srun may hold more" in done.stderr
    assert done.returncode == 0


def test_reader_of_the_output_leaves(alice: Login) -> None:
    """`pycr restart | head -n 3` ends as `srun | head -n 3` does, and leaves no step."""
    job = Ticking(alice, 1)
    job.start()
    job.vacate()
    srun = ["srun", "-n1", *job.command]
    restart = ["pycr", "restart", "--image-dir", ".", job.step]
    assert headed(job, restart) == headed(job, srun)


def headed(job: Ticking, command: list[str]) -> str:
    """Run a command with `head -n 3` for its reader, until some time after; return its status."""
    alice, stop = job.login, job.login.place / "stop"
    (alice.place / "beat.0").write_text("")
    words = shlex.join(command)
    shell = alice.popen("bash", "-c", f"{words} 2>err | head -n 3; echo ${{PIPESTATUS[0]}}")
    until("it to tick", lambda: job.beats()[0] > 5)
    job.goes_on()
    stop.touch()
    status = shell.communicate(timeout=30)[0].splitlines()[-1]
    until("the step to go", lambda: not alice.steps())
    stop.unlink()
    return status


@pytest.mark.parametrize("options", [[], ["-i", "none"], ["-o", "out.%t"]], ids=str)
def test_background_child_keeps_dev_null(alice: Login, options: list[str]) -> None:
    """A child on /dev/null stays there, over two restarts onto other streams."""
    victim = alice.victim("background.sh")
    job = Ticking(alice)
    job.command = [victim]
    job.start(*options)
    job.vacate()
    job.out += alice.read("out.0")
    job.restart("-o", "second")
    job.vacate()
    job.restart("-o", "third.%t")
    assert job.stop() == 0
    assert alice.read("child").splitlines() == ["/dev/null"] * 3
    lines = (job.out + alice.read("second") + alice.read("third.0")).splitlines()
    assert lines == [f"line {number}" for number in range(len(lines))]


def test_directory_of_the_output_is_gone(alice: Login) -> None:
    """A step that wrote to a file of its own, since deleted, restarts onto the new streams."""
    job = Ticking(alice, 1)
    job.start("-o", "out.%t", "-e", "err.%t")
    job.vacate()
    collect(job, "task")
    assert not list(Path(alice.place).glob("out.*"))
    job.restart()
    assert job.stop() == 0
    job.whole()
