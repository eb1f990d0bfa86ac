# SPDX-License-Identifier: GPL-2.0-or-later
"""A helper's lines as the coordinator joins them, and one object cut and joined again."""

from __future__ import annotations

import json

from pycr import protocol
from pycr.errors import PycrError


def made() -> list[bytes]:
    """Return lines."""
    small = {"event": "ready", "tasks": {"0": {"pids": [7], "exe": "/bin/app"}}, "image_dir": None}
    lines = "".join(protocol.pieces("n0", small)) + "".join(
        protocol.pieces("n1", {"event": "dumped", "task": 1, "word": "\udcff" * 400})
    )
    failed = {"event": "failed", "task": 0, **protocol.failure(PycrError("why"))}
    return [lines.encode(), "".join(protocol.pieces("n0", failed)).encode(), b"n0 + {\nn0 . }\n"]


def check(data: bytes) -> None:
    """Join its lines; cut what comes of it and join that."""
    joiner = protocol.Joiner()
    for line in data.decode("utf-8", "replace").split("\n"):
        try:
            whole = joiner.feed(line)
        except ValueError:
            continue
        if whole is None:
            continue
        node, value = whole
        assert " " not in node
        assert issubclass(protocol.error_class(value), PycrError)
        _again(value)
    try:
        value = protocol.parse(data)
    except ValueError:
        return
    _again(value)
    assert b"\n" not in protocol.parse_line(value)[:-1]


def _again(value: protocol.Object) -> None:
    joiner = protocol.Joiner()
    *first, last = protocol.pieces("n0", value)
    assert all(joiner.feed(line) is None for line in first)
    assert all(len(line) <= 1024 for line in (*first, last))
    found = joiner.feed(last)
    assert found is not None
    assert json.dumps(found[1]) == json.dumps(value)
