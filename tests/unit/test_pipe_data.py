# SPDX-License-Identifier: GPL-2.0-or-later
"""What had not been read from a pipe, out of an image that its user may have written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pycr.engine import images
from tests.fuzz.pipes_image import INODE, MAGIC, entry

Read = Callable[[], bytes]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def now() -> bytes:
        place = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return images.pipe_data(place, INODE)
        finally:
            os.close(place)

    return now


def test_of_two_pipes_its_own(tmp_path: Path, read: Read) -> None:
    data = MAGIC + entry(INODE + 1, 2, b"no") + entry(INODE, 3, b"yes")
    (tmp_path / "pipes-data.img").write_bytes(data)
    assert read() == b"yes"
    (tmp_path / "pipes-data.img").write_bytes(MAGIC + entry(INODE + 1, 2, b"no"))
    assert read() == b""


@pytest.mark.parametrize(
    "data", [entry(INODE, 5, b"yes"), entry(INODE, 1 << 40, b""), b"\xff\xff\xff\xff", b"\1\0\0\0"]
)
def test_cut_off_or_too_long(tmp_path: Path, read: Read, data: bytes) -> None:
    (tmp_path / "pipes-data.img").write_bytes(MAGIC + data)
    with pytest.raises(ValueError, match=r"."):
        read()


def test_a_fifo_holds_nobody_up(tmp_path: Path, read: Read) -> None:
    os.mkfifo(tmp_path / "pipes-data.img")
    with pytest.raises(OSError, match=r"."):
        read()


def test_no_link_is_followed(tmp_path: Path, read: Read) -> None:
    (tmp_path / "pipes-data.img").symlink_to("/dev/null")
    with pytest.raises(OSError, match=r"."):
        read()
