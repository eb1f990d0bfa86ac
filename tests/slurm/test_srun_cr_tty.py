# SPDX-License-Identifier: GPL-2.0-or-later
"""srun_cr between a terminal and srun: nobody can tell that it is there.

Each test types at an interactive bash on a pty of a node and reads its screen. All hold for plain
srun too (put "srun" into STARTED to see), but its time is better spent on the two ways there are of
being started: by the plugin, and by hand.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.login import Login, until
from tests.victims.ticking import gapless

PTY = "import pty; pty.spawn(['bash', '--norc', '--noediting', '-i'])"
STARTED = ["srun --cr", "srun_cr"]
BOTH = pytest.mark.parametrize("srun", STARTED)
TRAP = "trap 'echo task-int' INT; echo up; until test -e stop; do sleep 0.05; done; exit 4"


class Terminal:
    """An interactive shell on a pty of n0."""

    def __init__(self, alice: Login) -> None:
        self.alice = alice
        self.out = (alice.place / "screen").open("wb")
        self.process = alice.popen(
            "env", "PS1=ready> ", "TERM=dumb", "python3", "-c", PTY,
            stdin=subprocess.PIPE, stdout=self.out, stderr=self.out,
        )  # fmt: skip
        self.wait("ready> ")

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def screen(self) -> str:
        """Return what is on the screen, but for the lines typed at the shell."""
        text = self.alice.read("screen").replace("\r\n", "\n")
        return re.sub(r"ready> .*\n", "ready>\n", text)

    def wait(self, mark: str) -> None:
        try:
            until(f"{mark!r} on the screen", lambda: mark in self.screen() + self.tail())
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.screen()}") from None

    def tail(self) -> str:
        return self.alice.read("screen")[-8:]

    def wrappers(self) -> list[tuple[str, str]]:
        """Return (name, state) of srun and srun_cr of this terminal."""
        found = []
        todo = [self.process.pid]
        for pid in todo:
            try:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                status = Path(f"/proc/{pid}/status").read_text()
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            name = re.findall(r"Name:\t(.*)", status)[0]
            if name != "srun":  # which has a helper process of its own
                todo.extend(int(child) for child in children)
            if name == "srun" or any(word.endswith(b"/srun_cr") for word in words):
                found.append((name, re.findall(r"State:\t(.)", status)[0]))
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.out.close()


@pytest.fixture
def terminal(alice: Login) -> Iterator[Terminal]:
    made = Terminal(alice)
    yield made
    made.close()


@BOTH
def test_ctrl_c_arrives_once(alice: Login, terminal: Terminal, srun: str) -> None:
    terminal.type(f'{srun} -n1 bash -c "{TRAP}"; echo status-$?\n')
    terminal.wait("\nup\n")
    terminal.type("\x03")
    terminal.wait("one more within 1 sec to abort")
    (alice.place / "stop").touch()
    terminal.wait("\nstatus-4\n")
    text = terminal.screen()
    assert text.count("one more within") == 1
    assert text.count("^C") == 1
    assert "task-int" not in text


@BOTH
def test_ctrl_c_twice_aborts_and_the_shell_goes_on(
    alice: Login, terminal: Terminal, srun: str
) -> None:
    terminal.type(f"{srun} -n1 bash -c 'echo up; exec sleep 60'\n")
    terminal.wait("\nup\n")
    terminal.type("\x03")
    pressed = 0

    def aborted() -> bool:
        """Press again whenever srun asks for it: what comes too late is a first again."""
        nonlocal pressed
        if terminal.screen().count("one more within 1 sec to abort") > pressed:
            pressed += 1
            terminal.type("\x03")
        return "sending Ctrl-C to StepId" in terminal.screen()

    until("srun to abort it", aborted)
    until("the step to end", lambda: not alice.steps())
    terminal.type("echo on-$((6*7))\n")
    terminal.wait("\non-42\n")
    terminal.wait("ready>")


@BOTH
def test_ctrl_z_and_fg(alice: Login, terminal: Terminal, srun: str) -> None:
    victim = alice.victim("tick.py")
    terminal.type(f"{srun} -n1 -e /dev/null {victim} 3\n")
    terminal.wait("\n0 5\n")
    terminal.type("\x1a")
    terminal.wait("Stopped")
    until("all to stop", lambda: {state for _, state in terminal.wrappers()} == {"T"})
    terminal.type("echo on-$((6*7))\n")
    terminal.wait("\non-42\n")
    terminal.type("fg; echo status-$?\n")
    (alice.place / "stop").touch()
    terminal.wait("\nstatus-3\n")
    assert "\npause 0 " in terminal.screen()
    # The terminal shows the key in front of what comes next.
    numbers = re.findall(r"^(?:\^Z)?(0 \d+)$", terminal.screen(), re.MULTILINE)
    gapless("\n".join(numbers), 1)
    assert terminal.screen().count("Stopped") == 1


@BOTH
def test_kill_tstp_and_fg(alice: Login, terminal: Terminal, srun: str) -> None:
    """A stop that comes as a signal to the job, not from the keyboard."""
    victim = alice.victim("tick.py")
    terminal.type(f"{srun} -n1 -oout -e /dev/null {victim} 3 </dev/null &\n")
    until("it to count", lambda: "0 3\n" in alice.read("out"))
    terminal.type("kill -TSTP %1\n")
    until("all to stop", lambda: {state for _, state in terminal.wrappers()} == {"T"})
    terminal.type("fg; echo status-$?\n")
    (alice.place / "stop").touch()
    terminal.wait("\nstatus-3\n")
    assert alice.read("out").splitlines()[-1].startswith("pause 0 ")
    gapless(alice.read("out"), 1)


@BOTH
def test_terminal_as_stdin(terminal: Terminal, srun: str) -> None:
    terminal.type(f"{srun} -n1 sed -u s/^/got-/; echo status-$?\n")
    until("srun", terminal.wrappers)
    terminal.type("one\n")
    terminal.wait("\ngot-one\n")
    terminal.type("two\n\x04")
    terminal.wait("\ngot-two\n")
    terminal.wait("\nstatus-0\n")
    terminal.type("echo on-$((6*7))\n")
    terminal.wait("\non-42\n")


@BOTH
def test_pty(terminal: Terminal, srun: str) -> None:
    line = f"{srun} --pty -n1 sh -c 'tty; stty size; sleep 0.2; exit 5'"
    terminal.type(f"stty rows 33 cols 99; {line}; echo status-$?\n")
    terminal.wait("\nstatus-5\n")
    text = terminal.screen()
    assert "/dev/pts/" in text
    assert "33 99" in text


@BOTH
def test_ctrl_c_under_pty_goes_to_the_task(terminal: Terminal, srun: str) -> None:
    terminal.type(f"""{srun} --pty -n1 bash -c 'trap "exit 6" INT; echo up; sleep 60'\n""")
    terminal.wait("\nup\n")
    terminal.type("\x03")
    terminal.wait("Exited with exit code 6\nready>")
    terminal.type("echo status-$?\n")
    terminal.wait("\nstatus-6\n")
    assert "one more within" not in terminal.screen()


@BOTH
def test_hangup_ends_the_step(alice: Login, terminal: Terminal, srun: str) -> None:
    terminal.type(f"{srun} -n1 bash -c 'echo up; exec sleep 60'\n")
    terminal.wait("\nup\n")
    terminal.process.send_signal(signal.SIGKILL)
    until("the step to end", lambda: not alice.steps())


@BOTH
def test_pipe_as_stdin_and_stdout(alice: Login, srun: str) -> None:
    lines = "".join(f"{number}\n" for number in range(20000))
    done = alice.sh(f"{srun} -n1 cat | cat; exit ${{PIPESTATUS[0]}}", input=lines)
    assert (done.returncode, done.stdout, done.stderr) == (0, lines, "")
