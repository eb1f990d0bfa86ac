# SPDX-License-Identifier: GPL-2.0-or-later
"""What a core image may ask for: every way to write a field counts."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from pycr.engine import core_image, rpc
from pycr.errors import ImageError, RestoreFailed

UID, GID = os.getuid(), os.getgid()


def core(*creds: bytes, magic: bytes = core_image.MAGIC, behind: bytes = b"") -> bytes:
    """Return a core image whose thread has credentials of these pieces, one message each."""
    thread = b"".join(rpc.encode(10, each) for each in creds)
    entry = rpc.encode(1, 1) + rpc.encode(5, thread)
    return magic + struct.pack("<I", len(entry)) + entry + behind


OWN = b"".join(rpc.encode(n, UID if n % 2 else GID) for n in range(1, 9)) + rpc.encode(13, 0)


def test_its_users_own() -> None:
    zeroes = b"".join(rpc.encode(n, 0) for n in (9, 9, 10, 10, 11, 11))
    groups = b"".join(rpc.encode(14, group) for group in os.getgroups())
    everything = rpc.encode(12, 0xFFFFFFFF) + rpc.encode(18, 1)
    assert core_image.asks_for(core(OWN + zeroes + groups + everything)) == ""
    assert core_image.asks_for(core()) == ""  # a zombie has none


@pytest.mark.parametrize(
    ("more", "what"),
    [
        *((rpc.encode(number, UID + 1), f"user id {UID + 1}") for number in (1, 3, 5, 7)),
        *((rpc.encode(number, GID + 1), f"group id {GID + 1}") for number in (2, 4, 6, 8)),
        (rpc.encode(14, 54321), "supplementary group 54321"),
        *((rpc.encode(number, 1 << 8), "capabilities") for number in (9, 10, 11, 19)),
        (rpc.encode(10, b"\0\x80\x02"), "capabilities"),  # packed
        (rpc.encode(13, 1), "securebits"),
    ],
)
def test_more_than_its_users(more: bytes, what: str) -> None:
    for data in (core(OWN + more), core(more + OWN), core(OWN, more), core(more, OWN)):
        assert core_image.asks_for(data) == what


@pytest.mark.parametrize(
    "data",
    [
        b"",
        core(OWN)[:-1],
        core(OWN, behind=b"\0"),
        core(OWN, behind=core(OWN)[8:]),
        core(OWN, magic=core_image.MAGIC[4:] * 2),
        core_image.MAGIC[4:] + core(OWN)[8:],  # of CRIU before 1.1: one word of magic
        core(b"\x0b\x0c"),  # a group
        core(rpc.encode(1, b"text")),
        core(OWN + b"\x08"),
        core_image.MAGIC + struct.pack("<I", 1 << 20) + bytes(1 << 20),
    ],
)
def test_what_is_no_core_image(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"message|core image|field|type|number"):
        core_image.asks_for(data)


def test_copy(tmp_path: Path) -> None:
    images, private = tmp_path / "images", tmp_path / "private"
    images.mkdir()
    private.mkdir()
    (images / "core-7.img").write_bytes(core(OWN))
    (images / "pages-1.img").write_bytes(b"pages")
    source, target = os.open(images, os.O_RDONLY), os.open(private, os.O_RDONLY)
    try:
        core_image.copy_checked(source, ["core-7.img", "pages-1.img"], target, {})
        assert (private / "core-7.img").read_bytes() == core(OWN)
        assert not (private / "core-7.img").is_symlink()
        assert os.readlink(private / "pages-1.img") == f"/proc/1/fd/{source}/pages-1.img"
        (images / "files.img").write_bytes(b"theirs")
        core_image.copy_checked(source, ["files.img"], target, {"files.img": b"mine"})
        assert (private / "files.img").read_bytes() == b"mine"
        (images / "core-8.img").write_bytes(core(OWN + rpc.encode(10, 1)))
        with pytest.raises(RestoreFailed, match="its image asks for capabilities"):
            core_image.copy_checked(source, ["core-8.img"], target, {})
        os.mkfifo(images / "core-9.img")
        with pytest.raises(ImageError, match=r"core-9\.img: damaged: no core image"):
            core_image.copy_checked(source, ["core-9.img"], target, {})
    finally:
        os.close(source)
        os.close(target)
