# SPDX-License-Identifier: GPL-2.0-or-later
"""CRIU's image files, as far as pycr reads and changes them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pycr.engine import images, rpc

MAGIC = b"\x01\x02\x03\x04\x05\x06\x07\x08"
Fields = dict[int, "list[rpc.Value]"]


def packed(*entries: bytes) -> bytes:
    return MAGIC + b"".join(len(each).to_bytes(4, sys.byteorder) + each for each in entries)


def regular(name: bytes, size: int) -> Fields:
    inner: Fields = {1: [1], 2: [32768], 3: [5], 6: [name], 8: [size], 10: [33188], 11: [7, 8]}
    return {1: [1], 2: [1], 3: [rpc.message(inner)]}


def test_size_and_mode_of_named_files_are_gone() -> None:
    other: Fields = {1: [2], 2: [9], 18: [b"pipe"]}
    data = packed(
        rpc.message(regular(b"/a", 10)), rpc.message(other), rpc.message(regular(b"/b", 20))
    )
    changed = images.forget_sizes(data, {"/b"})
    wanted = regular(b"/b", 20)
    inner = rpc.decode(bytes(wanted[3][0]))
    del inner[8], inner[10]
    wanted[3] = [rpc.message(inner)]
    assert changed == packed(
        rpc.message(regular(b"/a", 10)), rpc.message(other), rpc.message(wanted)
    )
    assert images.forget_sizes(data, set()) == data


def test_a_name_that_is_no_utf8() -> None:
    data = packed(rpc.message(regular(b"/caf\xe9", 10)))
    assert images.forget_sizes(data, {os.fsdecode(b"/caf\xe9")}) != data


@pytest.mark.parametrize(
    "data",
    [
        packed(rpc.message(regular(b"/a", 10)))[:-1],
        MAGIC + b"\xff\xff\xff\xff",
        packed(b"\xff"),
        packed(rpc.message({3: [7]})),
        packed(rpc.message({3: [b"\xff"]})),
    ],
)
def test_a_damaged_list_of_files(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"damaged|truncated|unknown"):
        images.forget_sizes(data, {"/a"})


def test_pipe_data(tmp_path: Path) -> None:
    entry = rpc.encode(1, 77) + rpc.encode(2, 5)
    body = len(entry).to_bytes(4, sys.byteorder) + entry + b"hello"
    (tmp_path / images.PIPES_DATA).write_bytes(MAGIC + body)
    directory = os.open(tmp_path, os.O_RDONLY)
    assert images.pipe_data(directory, 77) == b"hello"
    assert images.pipe_data(directory, 78) == b""
    os.close(directory)
