# SPDX-License-Identifier: GPL-2.0-or-later
"""CRIU's wire format, against bytes made by hand."""

from __future__ import annotations

import random

import pytest

from pycr.engine import rpc

NUMBERS = [
    (0, "00"),
    (1, "01"),
    (127, "7f"),
    (128, "8001"),
    (300, "ac02"),
    (1 << 20, "808040"),
    (0xFFFFFFFF, "ffffffff0f"),
    (-1, "ffffffffffffffffff01"),
]


@pytest.mark.parametrize(("number", "text"), NUMBERS)
def test_varint(number: int, text: str) -> None:
    assert rpc.varint(number).hex() == text


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        (1, 1, "0801"),
        (2, 300, "10ac02"),
        (16, 1, "800101"),
        (67, 1, "980401"),
        (9, b"abc", "4a03616263"),
        (27, b"", "da0100"),
    ],
)
def test_encode_and_decode(field: int, value: rpc.Value, text: str) -> None:
    message = rpc.encode(field, value)
    assert message.hex() == text
    assert rpc.decode(message) == {field: [value]}


def test_fields_that_repeat_and_kinds_that_are_not_sent() -> None:
    message = bytes.fromhex("080108021101020304050607081d01020304")
    assert rpc.decode(message) == {1: [1, 2], 2: [bytes(range(1, 9))], 3: [bytes(range(1, 5))]}


def test_dump_request() -> None:
    message = rpc.request(
        rpc.DUMP, {"images_dir_fd": 5, "pid": 300, "leave_running": True, "unprivileged": True}
    )
    # criu_req { type: DUMP, opts { images_dir_fd: 5, pid: 300, leave_running: 1, unprivileged: 1 }}
    assert message.hex() == "0801120a080510ac021801980401"


def test_inherited_descriptors_are_messages_each() -> None:
    message = rpc.request(rpc.RESTORE, {"inherit_fd": [("pipe:[1]", 3), ("tmp/out", 4)]})
    assert rpc.decode(message)[1] == [rpc.RESTORE]
    (body,) = rpc.decode(message)[2]
    assert isinstance(body, bytes)
    pairs = [rpc.decode(pair) for pair in rpc.decode(body)[27] if isinstance(pair, bytes)]
    assert pairs == [{1: [b"pipe:[1]"], 2: [3]}, {1: [b"tmp/out"], 2: [4]}]


def test_request_without_options() -> None:
    assert rpc.request(rpc.VERSION, {}).hex() == "080a"


@pytest.mark.parametrize(("success", "text"), [(True, "08061801"), (False, "08061800")])
def test_answer_to_a_notification(success: bool, text: str) -> None:
    assert rpc.notify_reply(success).hex() == text


def test_response_to_a_restore() -> None:
    assert rpc.response(bytes.fromhex("08021001220308ac02")) == rpc.Response(
        kind=rpc.RESTORE, success=True, pid=300
    )


def test_notification() -> None:
    inner = b"\x0a\x09post-dump\x10\x07"
    message = bytes.fromhex("08061001") + b"\x2a" + bytes([len(inner)]) + inner
    assert rpc.response(message) == rpc.Response(
        kind=rpc.NOTIFY, success=True, script="post-dump", pid=7
    )


def test_failure_and_version() -> None:
    failed = rpc.response(bytes.fromhex("08011000") + b"\x4a\x03bad")
    assert (failed.success, failed.errmsg) == (False, "bad")
    version = rpc.response(bytes.fromhex("080a10015206080410012001"))
    assert version.version == (4, 1, 1)


@pytest.mark.parametrize(
    "text",
    [
        "08",  # a key without its value
        "80",  # half a key
        "0a05616263",  # less than its length
        "0affffffffffffffffff01",  # a length of 2**64 - 1
        "11010203",  # half a fixed64
        "ffffffffffffffffffffffff01",  # a varint of more than 64 bits
        "0b",  # groups are not used
        "0f",  # no such wire type
        "0a0161",  # a type that is bytes
        "2a020880",  # half a notification
        "2801",  # a notification that is a number
        "52020a00",  # a version that is bytes
    ],
)
def test_garbage_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        rpc.response(bytes.fromhex(text))


def test_random_garbage_raises_nothing_else() -> None:
    source = random.Random(1)
    for _ in range(5000):
        message = source.randbytes(source.randrange(40))
        try:
            rpc.response(message)
        except ValueError:
            continue


def test_every_truncation_of_a_message_raises_nothing_else() -> None:
    whole = bytes.fromhex("080610012a0d") + b"\x0a\x09post-dump\x10\x07"
    for length in range(len(whole)):
        try:
            rpc.response(whole[:length])
        except ValueError:
            continue
