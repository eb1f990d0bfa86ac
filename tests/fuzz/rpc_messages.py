# SPDX-License-Identifier: GPL-2.0-or-later
"""CRIU's answers: fields or a ValueError, and fields that are encoded again come back."""

from __future__ import annotations

from pycr.engine import rpc


def made() -> list[bytes]:
    """Return messages such as criu sends."""
    notify = rpc.encode(1, rpc.NOTIFY) + rpc.encode(2, 1)
    version = rpc.encode(1, 4) + rpc.encode(2, 1) + rpc.encode(4, 1)
    return [
        notify + rpc.encode(5, rpc.encode(1, b"post-dump") + rpc.encode(2, 4711)),
        rpc.encode(1, rpc.DUMP) + rpc.encode(2, 0) + rpc.encode(9, b"it failed"),
        rpc.encode(1, rpc.RESTORE) + rpc.encode(2, 1) + rpc.encode(4, rpc.encode(1, 12)),
        rpc.encode(1, rpc.VERSION) + rpc.encode(2, 1) + rpc.encode(10, version),
        b"\x09" + b"8" * 8 + b"\x15" + b"4" * 4 + rpc.encode(3, -1),
    ]


def check(data: bytes) -> None:
    """Decode it, and take it for an answer."""
    try:
        fields = rpc.decode(data)
    except ValueError:
        fields = None
    if fields is not None:
        again = b"".join(
            rpc.encode(number, value) for number, values in fields.items() for value in values
        )
        assert rpc.decode(again) == fields
    try:
        answer = rpc.response(data)
    except ValueError:
        return
    assert fields is not None
    assert type(answer.success) is bool
    assert len(answer.version) in (0, 3)
    for number in (answer.kind, answer.pid, *answer.version):
        assert 0 <= number < 1 << 64
