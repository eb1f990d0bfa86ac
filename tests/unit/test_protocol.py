# SPDX-License-Identifier: GPL-2.0-or-later
"""What helpers and coordinator say: cut into lines, mixed by srun, put together again."""

from __future__ import annotations

import io
import os
import random
import socket

import pytest

from pycr import errors, protocol

LONG = {"event": "ready", "text": "x" * 5000, "é": ["\n", "\0", " "], "n": 1.5}


def test_pieces_are_short_lines_of_plain_text() -> None:
    lines = list(protocol.pieces("n0", LONG))
    assert len(lines) > 5
    for line in lines:
        assert len(line.encode()) <= 1024, "slurmstepd would cut it"
        assert line.endswith("\n")
        assert line.isascii()
        assert line[:-1].isprintable()


@pytest.mark.parametrize("size", [0, 1, 780, 781, 782, 799, 800, 801, 1600, 1601, 100000])
def test_pieces_come_together(size: int) -> None:
    value = {"text": "y" * size}
    joiner = protocol.Joiner()
    found = [joiner.feed(line) for line in protocol.pieces("node", value)]
    assert found[-1] == ("node", value)
    assert set(found[:-1]) <= {None}


def test_nodes_interleave_at_will() -> None:
    source = random.Random(2)
    values = {f"n{i}": [{"i": i, "j": j, "x": "z" * 900 * j} for j in range(5)] for i in range(8)}
    queues = {
        node: [line for value in sent for line in protocol.pieces(node, value)]
        for node, sent in values.items()
    }
    got: dict[str, list[protocol.Object]] = {node: [] for node in values}
    joiner = protocol.Joiner()
    while any(queues.values()):
        node = source.choice([node for node, queue in queues.items() if queue])
        whole = joiner.feed(queues[node].pop(0))
        if whole is not None:
            got[whole[0]].append(whole[1])
    assert got == values


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\n",
        "n0",
        "n0 .",
        "n0 ! {}",
        "n0 +. {}",
        "n0  {}",
        "srun: error: something went wrong",
        "n0 . {",
        "n0 . []",
        "n0 . 1",
        "n0 . null",
        "n0 . ",
        'n0 . {"a": 1} 2',
        "n0 . " + "[" * 700,
        "\0\0\0",
    ],
)
def test_garbage_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        protocol.Joiner().feed(line)


def test_deep_nesting_is_a_value_error() -> None:
    """json raises RecursionError for this, which no caller expects."""
    joiner = protocol.Joiner()
    text = "[" * 200_000
    with pytest.raises(ValueError, match=r"."):
        for at in range(0, len(text), protocol.PIECE):
            joiner.feed(f"n0 + {text[at : at + protocol.PIECE]}")
        joiner.feed("n0 . ")


def test_garbage_does_not_spoil_what_comes_next() -> None:
    joiner = protocol.Joiner()
    with pytest.raises(ValueError, match=r"."):
        joiner.feed("n0 . {")
    assert joiner.feed('n0 . {"a":1}\n') == ("n0", {"a": 1})


def test_endless_pieces_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_OBJECT", 10 * protocol.PIECE)
    joiner = protocol.Joiner()
    with pytest.raises(ValueError, match="n0 says too much"):
        for _ in range(11):
            joiner.feed("n0 + x")


def test_a_command_is_one_line() -> None:
    line = protocol.parse_line({"do": "dump", "dir": "/a\nb"})
    assert line.count(b"\n") == 1
    assert protocol.parse(line) == {"do": "dump", "dir": "/a\nb"}
    stream = io.StringIO()
    protocol.say(stream, {"do": "seal"})
    assert stream.getvalue() == '{"do":"seal"}\n'


def test_errors_travel() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.PycrError):
            value = protocol.failure(kind("why"))
            assert protocol.error_class(value) is kind
            assert value["reason"] == "why"


@pytest.mark.parametrize("kind", [None, "", "OSError", "annotations", "__doc__", 7, ["x"], "Nope"])
def test_unknown_errors_are_the_tasks(kind: object) -> None:
    assert protocol.error_class({"kind": kind}) is errors.TaskError


def test_peer_is_this_user() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert protocol.peer_uid(one) == os.getuid()


def test_address_of_a_pod() -> None:
    words = [
        "python3",
        "-I",
        "-m",
        "pycr.pod",
        *["1", "0", "2", "0", "4", "n1", "criu", "0", "1024", "/dir", "5", "6", "pycr-x"],
    ]
    assert protocol.pod_address(words) == "pycr-x"
    with pytest.raises(IndexError):
        protocol.pod_address(words[:-1])
