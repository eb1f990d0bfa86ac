# SPDX-License-Identifier: GPL-2.0-or-later
"""pycr.on_checkpoint() and critical_section(), in real programs that are really asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

import pycr
from pycr import ask, mailbox
from pycr.ask import Asked
from pycr.errors import TaskError, TimedOut
from tests.login import until
from tests.unit.program import ROOT, Program

HEAD = """
import os, sys
import pycr
def say(text):
    os.write(1, f"{text}\\n".encode())
def log(text):
    return lambda *_: say(text)
"""
# What each program ends with: it does what it is told, a line at a time.
TAIL = """
say("up")
for line in sys.stdin:
    exec(line)
"""
Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start programs: start(code, silence=turns of a second)."""
    made: list[Program] = []

    def program(code: str, silence: int = mailbox.SILENCE, **more: object) -> Program:
        patch = f"from pycr import mailbox; mailbox.SILENCE = {silence}\n"
        made.append(Program(HEAD + patch + code + TAIL, **more))
        assert made[-1].line() == "up"
        return made[-1]

    yield program
    for each in made:
        each.kill()


class Checkpoint:
    """One who asks a program, as node.py does."""

    def __init__(self, program: Program, patience: float = 10) -> None:
        self.asked = Asked()
        try:
            answers = self.asked.ask(ask.find([program.pid]), "checkpoint", patience)
            assert list(answers) == [str(program.pid)]
        except BaseException:
            self.asked.tell("go on")
            raise

    def go_on(self) -> None:
        self.asked.tell("go on")

    def restarted(self, **environment: list[str | None]) -> None:
        self.asked.tell("restarted", image_dir="/images/1", environment=environment)


TWO = """
one = pycr.on_checkpoint(log("before 1"), log("after 1"), log("restarted 1"))
two = pycr.on_checkpoint(log("before 2"), log("after 2"), log("restarted 2"))
"""


def test_order(start: Start) -> None:
    program = start(TWO)
    checkpoint = Checkpoint(program)
    assert program.lines(2) == ["before 1", "before 2"]
    checkpoint.go_on()
    assert program.lines(2) == ["after 2", "after 1"]


def test_order_after_a_restart(start: Start) -> None:
    program = start(TWO)
    checkpoint = Checkpoint(program)
    assert program.lines(2) == ["before 1", "before 2"]
    checkpoint.restarted()
    assert program.lines(2) == ["restarted 2", "restarted 1"]
    Checkpoint(program).go_on()
    assert program.lines(4) == ["before 1", "before 2", "after 2", "after 1"]


def test_taken_back(start: Start) -> None:
    program = start(TWO)
    program.tell("one(); one(); say('ok')")
    assert program.line() == "ok"
    Checkpoint(program).go_on()
    assert program.lines(2) == ["before 2", "after 2"]
    program.tell("two(); say('ok')")
    assert program.line() == "ok"
    Checkpoint(program).go_on()
    program.tell("say('end')")
    assert program.line() == "end"


def test_none_of_the_three_is_needed(start: Start) -> None:
    program = start("pycr.on_checkpoint()")
    Checkpoint(program).go_on()
    Checkpoint(program).restarted()
    Checkpoint(program).go_on()


def test_try_later(start: Start) -> None:
    program = start(
        'times = [0]\npycr.on_checkpoint(log("before 1"), log("after 1"))\n'
        "def before():\n"
        "    times[0] += 1\n"
        "    if times[0] < 3: raise pycr.TryLater('not yet')\n"
        '    say("before 2")\n'
        'pycr.on_checkpoint(before, log("after 2"))\n'
    )
    checkpoint = Checkpoint(program)
    assert program.lines(4) == ["before 1", "after 1"] * 2
    assert program.lines(2) == ["before 1", "before 2"]
    checkpoint.go_on()
    assert program.lines(2) == ["after 2", "after 1"]


@pytest.mark.parametrize(
    ("raised", "reason"),
    [("pycr.TryLater('not yet')", "not yet"), ("pycr.TryLater", "it asks for a moment")],
)
def test_always_later(start: Start, raised: str, reason: str) -> None:
    program = start(f"def before(): raise {raised}\npycr.on_checkpoint(before)")
    with pytest.raises(TimedOut, match=f"is not ready for it: it said: {reason}$"):
        Checkpoint(program, 1.5)


def test_cannot(start: Start) -> None:
    program = start(
        TWO + "def before(): raise ValueError('no place to go')\n"
        "pycr.on_checkpoint(before, log('after 3'))\npycr.on_checkpoint(log('before 4'))\n"
    )
    with pytest.raises(TaskError, match=r"cannot be: ValueError: no place to go$"):
        Checkpoint(program)
    assert program.lines(4) == ["before 1", "before 2", "after 2", "after 1"]
    program.tell("say('end')")
    assert program.line() == "end"


@pytest.mark.parametrize("told", ["go_on", "restarted"])
def test_one_that_raises_keeps_no_other_from_its_own(start: Start, told: str) -> None:
    program = start(
        TWO + "def wrong(*_): raise ValueError('oh')\npycr.on_checkpoint(None, wrong, wrong)\n",
        stderr=subprocess.PIPE,
    )
    getattr(Checkpoint(program), told)()
    word = "after" if told == "go_on" else told
    assert program.lines(4)[2:] == [f"{word} 2", f"{word} 1"]
    Checkpoint(program).go_on()  # it is still there to be asked
    os.killpg(program.pid, signal.SIGKILL)
    errors = program.process.communicate()[1].decode()
    assert "Traceback" in errors
    assert "ValueError: oh" in errors


# ---- critical sections --------------------------------------------------------------------------


SECTION = """
section = pycr.critical_section
outer, inner = section(), section()
pycr.on_checkpoint(log("before"), log("after"))
"""


def test_a_critical_section_holds_it_off(start: Start) -> None:
    program = start(SECTION)
    program.tell("outer.__enter__(); inner.__enter__(); say('in')")
    assert program.line() == "in"
    with pytest.raises(TimedOut, match="it does not answer"):
        Checkpoint(program, 0.3)
    program.tell("inner.__exit__(None, None, None); say('still in')")
    assert program.line() == "still in"
    with pytest.raises(TimedOut):
        Checkpoint(program, 0.3)
    assert program.silent(0)
    program.tell("outer.__exit__(None, None, None); say('out')")
    # The first of those questions is answered now, and what its asker said last is obeyed.
    lines = program.lines(3)
    assert sorted(lines) == ["after", "before", "out"]


def test_who_asks_while_an_old_question_waits(start: Start) -> None:
    """An old question, its end, and a new question: read at once when the section is left."""
    program = start(SECTION)
    program.tell("outer.__enter__(); say('in')")
    assert program.line() == "in"
    with pytest.raises(TimedOut):
        Checkpoint(program, 0.3)  # its question waits for the section
    (found,) = ask.find([program.pid])
    found.ask("checkpoint")  # this one lies behind that one's "go on"
    program.tell("outer.__exit__(None, None, None)")
    assert program.lines(3) == ["before", "after", "before"]
    assert until("an answer", found.answer)["event"] == "ready"
    found.tell("go on")
    found.close()
    assert program.line() == "after"


def test_a_question_that_is_over_when_it_is_read(start: Start) -> None:
    """The program was stopped meanwhile, or busy: question and end are read at once."""
    program = start(SECTION)
    (found,) = ask.find([program.pid])
    found.tell("checkpoint", id="1")
    found.tell("still there")
    found.tell("go on")
    found.ask("checkpoint")
    found.tell("go on")
    found.close()
    assert program.lines(4) == ["before", "after"] * 2


def test_a_critical_section_waits_for_the_end_of_a_checkpoint(start: Start) -> None:
    program = start(SECTION)
    checkpoint = Checkpoint(program)
    assert program.line() == "before"
    program.tell("outer.__enter__(); say('in')")
    assert program.silent(0.3)
    checkpoint.go_on()
    assert program.lines(2) == ["after", "in"]


# ---- being left alone ---------------------------------------------------------------------------


def test_goes_on_when_the_asker_is_dead(start: Start) -> None:
    program = start(TWO, silence=1)
    asker = Program(
        "import sys; from pycr import ask\n"
        "asked = ask.Asked(); asked.ask(ask.find([int(sys.argv[1])]), 'checkpoint', 10)\n"
        "print('asked', flush=True); sys.stdin.read()",
        str(program.pid),
    )
    assert asker.line() == "asked"
    asker.kill()
    assert program.lines(4) == ["before 1", "before 2", "after 2", "after 1"]
    Checkpoint(program).go_on()


# ---- after a restart ----------------------------------------------------------------------------


def test_restarted_gets_the_environment(start: Start) -> None:
    """os.environ is brought up to date only where the program has not changed it."""
    names = "'T_SAME', 'T_OWN', 'T_NEW', 'T_GONE'"
    program = start(
        "os.environ.update(T_SAME='1', T_OWN='own', T_GONE='1')\n"
        "def restarted(env):\n"
        "    assert type(env) is dict\n"
        f"    say([env.get(name) for name in ({names})])\n"
        f"    say([os.environ.get(name) for name in ({names})])\n"
        "    say(os.popen('echo $T_SAME').read().strip())\n"
        "pycr.on_checkpoint(restarted=restarted)\n"
    )
    Checkpoint(program).restarted(
        T_SAME=["2", "1"], T_OWN=["2", "1"], T_NEW=["2", None], T_GONE=[None, "1"]
    )
    assert program.lines(3) == [str(["2", "own", "2", None])] * 2 + ["2"]


# ---- fork ---------------------------------------------------------------------------------------

FORK = """
def fork():
    child = os.fork()
    if child:
        say(f"child {child}")
    else:
        for line in sys.stdin:
            exec(line, globals())
        os._exit(0)
"""


def child_of(program: Program) -> int:
    """Have a program fork; it then does nothing but wait, and its child what is told."""
    program.tell("fork(); os.wait()")
    return int(program.line().split()[1])


def test_a_forked_child_is_asked_when_it_wants_to_be(start: Start) -> None:
    program = start(TWO + FORK)
    child = child_of(program)
    assert [each.own_pid for each in closed(ask.find([program.pid, child]))] == [program.pid]
    program.tell("pycr.on_checkpoint(log('child')); say('registered')")
    assert program.line() == "registered"
    both = closed(ask.find([program.pid, child]))
    assert [each.own_pid for each in both] == [program.pid, child]


def closed(found: list[ask.Process]) -> list[ask.Process]:
    for each in found:
        each.close()
    return found


def test_a_child_that_is_forked_during_a_checkpoint(start: Start) -> None:
    """The parent's thread holds the lock at that moment, and the child has no such thread."""
    program = start(TWO + FORK + SECTION)
    checkpoint = Checkpoint(program)
    assert program.lines(3)[2] == "before"
    child_of(program)
    checkpoint.go_on()
    assert program.lines(3)[0] == "after"
    program.tell("outer.__enter__(); say('in')")
    assert program.line() == "in"
    program.tell("outer.__exit__(None, None, None); say('out')")
    assert program.line() == "out"


def test_a_child_that_is_forked_in_a_critical_section(start: Start) -> None:
    program = start(FORK + SECTION)
    program.tell("outer.__enter__(); say('in')")
    assert program.line() == "in"
    child = child_of(program)
    program.tell("inner.__enter__(); inner.__exit__(None, None, None); say('inner')")
    assert program.line() == "inner"
    program.tell("outer.__exit__(None, None, None); say('out')")
    assert program.line() == "out"
    asked = Asked()
    assert asked.ask(ask.find([child]), "checkpoint", 10)
    assert program.line() == "before"
    asked.tell("go on")
    assert program.line() == "after"


# ---- what it costs ------------------------------------------------------------------------------


def test_import_pycr_imports_nothing_else() -> None:
    """srun_cr is on the way of every `srun --cr`."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules)\n"
        "import pycr; print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) <= {"pycr", "__future__"}


def test_a_mailbox_is_made_only_where_it_is_wanted(start: Start) -> None:
    program = start("import pycr.callback")
    assert ask.find([program.pid]) == []
    program.tell("pycr.critical_section().__enter__(); say('in')")
    assert program.line() == "in"
    assert len(closed(ask.find([program.pid]))) == 1


def test_names_of_the_package() -> None:
    assert {pycr.on_checkpoint, pycr.critical_section, pycr.TryLater}
    with pytest.raises(AttributeError, match="module 'pycr' has no attribute 'nonsense'"):
        pycr.nonsense  # noqa: B018
