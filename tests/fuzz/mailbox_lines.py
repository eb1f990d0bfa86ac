# SPDX-License-Identifier: GPL-2.0-or-later
"""A process's mailbox: what others of the user's put into it are messages or nothing."""

from __future__ import annotations

import os

from pycr.mailbox import Mailbox


def made() -> list[bytes]:
    """Return lines."""
    return [
        b'{"do": "checkpoint", "id": "5f"}\n',
        b"exited 4711 0\nsrun 12 0\n",
        b'{"do": 1\n\n{}\n \n{"a": [[[]]]}\n',
        b"half a line",
    ]


def check(data: bytes) -> None:
    """Put it there, cut as a pipe would not mind, and read it."""
    box = Mailbox("program")
    try:
        _check(box, data)
    finally:
        box.close()


def _check(box: Mailbox, data: bytes) -> None:
    data = data[:4096] + b"\n"
    at = len(data) // 2
    found = []
    for part in (data[:at], data[at:]):
        os.write(box.post_descriptor(), part)
        found += box.read()
    assert all(isinstance(message, dict) for message in found)
    assert len(found) <= data.count(b"\n")
    box.post("exited", 4711, 0)
    assert box.read() == [{"do": "exited", "words": ["4711", "0"]}]
