# SPDX-License-Identifier: GPL-2.0-or-later
"""How a process is asked before a checkpoint, and told after it: both sides, in real processes."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pycr import ask, mailbox
from pycr.ask import Asked
from pycr.errors import Later, TaskError, TimedOut
from pycr.mailbox import Mailbox
from tests.login import until
from tests.unit.program import Program

# Answers each question with the next of its words, and says what it is told. A turn is 50 ms.
ANSWERER = """
import json, os, sys
from pycr import mailbox
mailbox.SILENCE = int(sys.argv[1])
box = mailbox.Mailbox("program")
answers = sys.argv[2:]
def say(text):
    os.write(1, f"{text}\\n".encode())
say("up")
silence = mailbox.Silence(box)
waiting = False
while True:
    if not box.wait(50):
        if waiting and silence.over():
            say("gave up")
            waiting = False
        continue
    silence.heard()
    for message in box.read():
        if message["do"] != "checkpoint":
            say(json.dumps({**message, "id": 0}))
            waiting = False if message["do"] == "go on" else waiting
            continue
        word = answers.pop(0) if len(answers) > 1 else answers[0]
        if word == "die":
            os._exit(0)
        elif word == "exec":
            os.execvp("sleep", ["sleep", "60"])
        elif word == "noise":
            for text in ('{"id": "another", "event": "cannot"}', "[]", "{", "9" * 5000, ""):
                os.write(box._reply, text.encode() + b"\\n")
            os.write(box._reply, b'{"id": "' + message["id"].encode() + b'", "even')
            say("half")
            sys.stdin.readline()
            os.write(box._reply, b't": "ready", "whole": true}\\n')
            waiting = True
        elif word == "endless":
            sys.stdin.readline()
            while True:
                try:
                    os.write(box._reply, b"x" * 4096)
                except BlockingIOError:
                    pass
        elif word != "silent":
            box.answer(message, word, reason="it is busy", step="12.0")
            waiting = word == "ready"
"""
Answerer = Callable[..., Program]


@pytest.fixture
def answerer() -> Iterator[Answerer]:
    """Start processes with a mailbox: answerer("later", "ready")."""
    made: list[Program] = []

    def start(*answers: str, silence: int = 1000) -> Program:
        made.append(Program(ANSWERER, str(silence), *answers))
        assert made[-1].line() == "up"
        return made[-1]

    yield start
    for each in made:
        each.kill()


@pytest.fixture
def asked() -> Iterator[Asked]:
    made = Asked()
    yield made
    made.tell("go on")


@pytest.fixture(autouse=True)
def no_leak() -> Iterator[None]:
    """See that nothing is left open; first of all fixtures, so that it looks when all are gone."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def pids(*programs: Program) -> list[int]:
    return [each.pid for each in programs]


def told(program: Program) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(program.line())
    return found


# ---- asking -------------------------------------------------------------------------------------


def test_ready(answerer: Answerer, asked: Asked) -> None:
    one, two = answerer("ready"), answerer("ready")
    found = ask.find(pids(one, two))
    assert [(each.role, each.own_pid) for each in found] == [
        ("program", each) for each in pids(one, two)
    ]
    answers = asked.ask(found, "checkpoint", 10)
    assert sorted(answers) == sorted(str(each) for each in pids(one, two))
    assert answers[str(one.pid)]["step"] == "12.0"
    asked.tell("restarted", image_dir="/i", environment={})
    wanted = {"do": "restarted", "image_dir": "/i", "environment": {}, "id": 0}
    assert told(one) == told(two) == wanted


def test_nobody_to_ask(asked: Asked) -> None:
    assert ask.find([os.getpid(), 1, (1 << 22) + 1]) == []
    assert asked.ask([], "checkpoint", 0) == {}


def test_later_is_asked_again(answerer: Answerer, asked: Asked) -> None:
    program = answerer("later", "later", "ready")
    assert str(program.pid) in asked.ask(ask.find(pids(program)), "checkpoint", 10)


def test_always_later(answerer: Answerer, asked: Asked) -> None:
    program = answerer("later")
    where = rf"^process {program.pid} \(python.*\) is not ready for it: it said: it is busy$"
    with pytest.raises(TimedOut, match=where):
        asked.ask(ask.find(pids(program)), "checkpoint", 2)
    asked.tell("go on")
    assert told(program)["do"] == "go on"


def test_cannot(answerer: Answerer, asked: Asked) -> None:
    program = answerer("cannot")
    where = rf"^process {program.pid} \(python.*\) cannot be: it is busy$"
    with pytest.raises(TaskError, match=where):
        asked.ask(ask.find(pids(program)), "checkpoint", 10)
    asked.tell("go on")
    assert told(program)["do"] == "go on"


def test_silent(answerer: Answerer, asked: Asked) -> None:
    program = answerer("silent")
    with pytest.raises(TimedOut, match=r"is not ready for it: it does not answer$"):
        asked.ask(ask.find(pids(program)), "checkpoint", 0.3)


def test_who_does_not_take_it_is_not_waited_for_longer(answerer: Answerer, asked: Asked) -> None:
    """One that is stopped, as by the user."""
    program = answerer("ready")
    os.kill(program.pid, signal.SIGSTOP)
    with pytest.raises(TimedOut, match="it does not answer"):
        asked.ask(ask.find(pids(program)), "checkpoint", 0.3)
    os.kill(program.pid, signal.SIGCONT)


@pytest.mark.parametrize("word", ["die", "exec"])
def test_who_is_gone_need_not_answer(answerer: Answerer, asked: Asked, word: str) -> None:
    """A zombie is gone, and so is a program that another one has taken the place of."""
    program, other = answerer(word), answerer("ready")
    began = time.monotonic()
    answers = asked.ask(ask.find(pids(program, other)), "checkpoint", 60)
    assert list(answers) == [str(other.pid)]
    assert time.monotonic() - began < 30


def test_asked_again_while_it_waits(answerer: Answerer, asked: Asked) -> None:
    program = answerer("ready")
    for _ in range(3):
        assert asked.ask(ask.find(pids(program)), "checkpoint", 10)
    asked.tell("go on")
    assert told(program)["do"] == "go on"


# ---- being told ---------------------------------------------------------------------------------


def test_still_there(answerer: Answerer, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits is told so often that it never takes the asker for dead."""
    monkeypatch.setattr(ask, "STILL_THERE", 0.05)
    program = answerer("ready", silence=20)
    asked.ask(ask.find(pids(program)), "checkpoint", 10)
    assert {told(program)["do"] for _ in range(40)} == {"still there"}  # twice the silence
    asked.tell("go on")
    until("it goes on", lambda: told(program)["do"] == "go on")


def test_a_dead_asker_is_noticed(answerer: Answerer) -> None:
    program = answerer("ready", silence=4)
    asker = Program(
        "import sys; from pycr import ask\n"
        "asked = ask.Asked(); asked.ask(ask.find([int(sys.argv[1])]), 'checkpoint', 10)\n"
        "print('asked', flush=True); sys.stdin.read()",
        str(program.pid),
    )
    assert asker.line() == "asked"
    asker.kill()
    assert program.line() == "gave up"
    # What it had answered that one is not taken for another's answer.
    asked = Asked()
    assert str(program.pid) in asked.ask(ask.find(pids(program)), "checkpoint", 10)
    asked.tell("go on")
    until("it goes on", lambda: "go on" in program.line())  # it may have given up once more


def test_an_answer_that_nobody_took_is_dropped(answerer: Answerer, asked: Asked) -> None:
    program = answerer("cannot", "ready")
    (dead,) = ask.find(pids(program))
    dead.ask("checkpoint")
    assert select.select([dead.reply], [], [], 10)[0]
    dead.close()
    assert asked.ask(ask.find(pids(program)), "checkpoint", 10)


def test_a_full_mailbox_keeps_nobody_waiting(answerer: Answerer) -> None:
    program = answerer("ready")
    os.kill(program.pid, signal.SIGSTOP)
    (found,) = ask.find(pids(program))
    for _ in range(100):
        found.tell("fill", text="x" * 4000)
    found.close()
    os.kill(program.pid, signal.SIGCONT)


def test_more_than_a_pipe_holds(answerer: Answerer) -> None:
    """An environment may be larger than a pipe has room for: 64 KiB, or one page of a user who has
    many (pipe(7), pipe-user-pages-soft)."""
    program = answerer("ready")
    (found,) = ask.find(pids(program))
    text = "x" * 200_000
    found.tell("restarted", text=text)
    found.tell("go on")
    found.close()
    assert told(program)["text"] == text
    assert told(program)["do"] == "go on"


# ---- framing ------------------------------------------------------------------------------------


@pytest.fixture
def box() -> Iterator[Mailbox]:
    made = Mailbox("program")
    yield made
    made.close()


def test_messages_may_come_in_any_pieces(box: Mailbox) -> None:
    put(box, b'{"do": "a"}\n{"do": "b", "text": "\\n\\u0000"}\n{"do": "c"')
    assert box.read() == [{"do": "a"}, {"do": "b", "text": "\n\0"}]
    assert box.read() == []
    put(box, b"}\n\nstep 12")
    assert box.read() == [{"do": "c"}]
    put(box, b" 3\n")
    assert box.read() == [{"do": "step", "words": ["12", "3"]}]


def test_posted_words(box: Mailbox) -> None:
    """What the monitor says, without JSON."""
    box.post("started", 4711, 4712)
    box.post("paused")
    assert box.read() == [
        {"do": "started", "words": ["4711", "4712"]},
        {"do": "paused", "words": []},
    ]


def test_one_message_after_the_other(box: Mailbox) -> None:
    """None is lost of those that have come together."""
    assert box.next(0) is None
    put(box, b'{"do": "a"}\n{"do": "b"}\n{"do": "c"}\n')
    assert [box.next(None) for _ in range(3)] == [{"do": "a"}, {"do": "b"}, {"do": "c"}]
    assert box.next(0) is None


def put(box: Mailbox, data: bytes) -> None:
    os.write(box.post_descriptor(), data)


@pytest.mark.parametrize(
    "line", [b"", b" ", b"{", b"{]", b'{"\xff', b'{"a":' * 10000, b'{"a":' + b"9" * 5000], ids=repr
)
def test_what_is_no_message_is_ignored(box: Mailbox, line: bytes) -> None:
    put(box, line + b"\n")
    box.post("a")
    assert box.read() == [{"do": "a", "words": []}]


def test_wait(box: Mailbox) -> None:
    assert not box.wait(0)
    box.post("a")
    assert box.wait(None)
    box.read()
    assert not box.wait(10)


def test_an_answer_among_noise_and_in_pieces(answerer: Answerer, asked: Asked) -> None:
    program = answerer("noise")
    (found,) = ask.find(pids(program))
    found.ask("checkpoint")
    assert program.line() == "half"
    assert found.answer() is None
    program.tell("")
    answer = until("an answer", found.answer)
    assert answer["whole"] is True
    found.close()


def test_an_answer_without_end(answerer: Answerer, asked: Asked) -> None:
    """It is taken for none, and its process for gone, before it fills the asker's memory."""
    program = answerer("endless")
    program.tell("")
    assert asked.ask(ask.find(pids(program)), "checkpoint", 10) == {}


# ---- whose it is --------------------------------------------------------------------------------


def test_a_forked_child_is_not_its_owner() -> None:
    program = Program(
        "import os, sys; from pycr.mailbox import Mailbox\n"
        "box = Mailbox('program'); child = os.fork()\n"
        "if child: print(child, flush=True); os.waitpid(child, 0)\n"
        "else: sys.stdin.read()"
    )
    child = int(program.line())
    found = ask.find([program.pid, child])
    assert [each.pid for each in found] == [program.pid]
    found[0].close()
    program.process.communicate(timeout=30)  # ends both: their stdin does


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_child_keeps_what_it_posts_by(box: Mailbox) -> None:
    child = os.fork()
    if child == 0:
        try:
            box.only_post()
            box.post("left", *(fd for fd in box.descriptors() if is_open(fd)))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert box.read() == [{"do": "left", "words": [str(box.post_descriptor())]}]


def test_another_process_just_started(answerer: Answerer, asked: Asked) -> None:
    one, two = answerer("ready"), answerer("ready")
    asked.ask(ask.find(pids(one)), "checkpoint", 10)
    asked.refuse_others(ask.find(pids(one)))
    with pytest.raises(Later, match=rf"^process {two.pid} \(python.*\) has just started$"):
        asked.refuse_others(ask.find(pids(one, two)))


GOOD = '{"protocol": 1, "pid": PID, "role": "program", "request": REQUEST, "reply": REPLY}'
CARDS = {
    "empty": "",
    "no object": "[]",
    "no JSON": "{",
    "deep": "[" * 4000,
    "no role": '{"protocol": 1, "pid": PID, "request": REQUEST, "reply": REPLY}',
    "another protocol": GOOD.replace('l": 1', 'l": 2'),
    "another's": GOOD.replace("PID", "1"),
    "no descriptor": GOOD.replace("REQUEST", "999"),
    "no reply": GOOD.replace("REPLY", "999"),
    "a file": GOOD.replace("REQUEST", "FILE"),
    "a reply that is a file": GOOD.replace("REPLY", "FILE"),
    "a path": GOOD.replace("REQUEST", '"../../1/fd/1"'),
    "huge": GOOD.replace("REQUEST", "9" * 3000),
    "null": GOOD.replace("REQUEST", "null"),
}


@pytest.mark.parametrize("card", [*CARDS.values(), GOOD], ids=[*CARDS, "good"])
def test_cards(card: str) -> None:
    """What a process says of itself is not believed more than it must be."""
    program = Program(
        "import os, sys\n"
        "request, reply, file = os.pipe()[1], os.pipe()[0], os.open('/etc/passwd', os.O_RDONLY)\n"
        "card = sys.argv[1].replace('PID', str(os.getpid())).replace('REQUEST', str(request))\n"
        "card = card.replace('REPLY', str(reply)).replace('FILE', str(file))\n"
        "os.write(os.memfd_create('pycr-callback'), card.encode())\n"
        "print('up', flush=True); sys.stdin.read()",
        card,
    )
    assert program.line() == "up"
    found = ask.find([program.pid])
    assert len(found) == (card == GOOD)
    for each in found:
        each.close()
    program.kill()


# ---- a restored process -------------------------------------------------------------------------


def test_a_restored_process_waits_for_its_pod(
    box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restored copy has another start time, whatever else is the same."""
    assert mailbox.identity() != ""
    assert not box.restored()
    monkeypatch.setattr(mailbox, "SILENCE", 3)
    silence = mailbox.Silence(box)
    assert [silence.over() for _ in range(3)] == [False, False, True]
    monkeypatch.setattr(mailbox, "identity", lambda: "another boot 7")
    assert box.restored()
    assert not any(silence.over() for _ in range(10))
    box.renew()
    assert not box.restored()
    assert silence.over()
    silence.heard()
    assert not silence.over()


def test_the_new_jobs_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"T_SAME": "1", "T_OWN": "own", "T_GONE": "1", "T_OWN_GONE": "own"}.items():
        monkeypatch.setenv(name, value)
    for name in ("T_NEW", "T_UNSET"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    mailbox.apply_environment(
        {
            "T_SAME": ["2", "0", "1"],  # what it is now, and in each job before
            "T_OWN": ["2", "1"],
            "T_GONE": [None, "1"],
            "T_OWN_GONE": [None, "1"],
            "T_NEW": ["2", None],
            "T_UNSET": ["2", "1"],
            "T_NEITHER": [None, None],
        }
    )
    found = {name: value for name, value in os.environ.items() if name.startswith("T_")}
    assert found == {"T_SAME": "2", "T_OWN": "own", "T_OWN_GONE": "own", "T_NEW": "2"}
