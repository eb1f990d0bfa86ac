# SPDX-License-Identifier: GPL-2.0-or-later
"""CRIU's RPC messages, as far as pycr speaks them: `criu swrk FD`, one message a packet.

The format is protocol buffers; the field numbers are those of images/rpc.proto in CRIU 3.18 to 4.2,
which CRIU keeps stable. Two dozen fields are coded here because the protobuf package costs each
helper on each node 40 ms to import, more than a small dump takes.
"""

from __future__ import annotations

from typing import NamedTuple, Union

DUMP, RESTORE, NOTIFY, VERSION = 1, 2, 6, 10  # criu_req_type
MANAGE_CGROUPS_IGNORE = 0  # criu_cg_mode
MAX_MESSAGE = 65536

# criu_opts: name -> field number
OPTIONS = {
    "images_dir_fd": 1,
    "pid": 2,
    "leave_running": 3,
    "shell_job": 7,
    "file_locks": 8,
    "log_level": 9,
    "notify_scripts": 12,
    "work_dir_fd": 17,
    "inherit_fd": 27,
    "manage_cgroups_mode": 34,
    "ghost_limit": 35,
    "timeout": 45,
    "unprivileged": 67,
    "log_to_stderr": 71,
}

Value = Union[int, bytes]


def varint(number: int) -> bytes:
    """Return number in base 128, low digits first; a negative one as 64 bits, as int32 is."""
    number &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode(number: int, value: Value) -> bytes:
    """Return one field: a number as a varint, bytes as a length and themselves."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(fields: dict[int, list[Value]]) -> bytes:
    """Return a message of fields as decode() gives them: numbers and bytes, none of fixed size."""
    return b"".join(encode(number, each) for number, all_ in fields.items() for each in all_)


def decode(message: bytes) -> dict[int, list[Value]]:
    """Return the fields of a message by number, in the order met.

    Raises ValueError for what is no protocol buffer message.
    """
    fields: dict[int, list[Value]] = {}
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(message) or shift > 63:
                raise ValueError("truncated message")
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                if value >> 64:
                    raise ValueError("a number of more than 64 bits")
                return value

    while at < len(message):
        key = number()
        kind = key & 7
        value: Value
        if kind == 0:
            value = number()
        elif kind in (1, 2, 5):
            size = number() if kind == 2 else {1: 8, 5: 4}[kind]
            if at + size > len(message):
                raise ValueError("truncated message")
            value = message[at : at + size]
            at += size
        else:
            raise ValueError(f"unknown wire type {kind}")
        fields.setdefault(key >> 3, []).append(value)
    return fields


def request(kind: int, options: dict[str, int | bool | list[tuple[str, int]]]) -> bytes:
    """Return a criu_req of that kind; `inherit_fd` is a list of (key, descriptor)."""
    body = b""
    for name, value in options.items():
        if isinstance(value, list):
            for key, descriptor in value:
                pair = encode(1, key.encode("utf-8", "surrogateescape")) + encode(2, descriptor)
                body += encode(OPTIONS[name], pair)
        else:
            body += encode(OPTIONS[name], int(value))
    return encode(1, kind) + (encode(2, body) if options else b"")


def notify_reply(success: bool) -> bytes:
    """Return the answer to a notification: go on, or fail."""
    return encode(1, NOTIFY) + encode(3, int(success))


class Response(NamedTuple):
    """A criu_resp. `script` and `pid` are those of a notification, `pid` also of a restore."""

    kind: int = 0
    success: bool = False
    script: str = ""
    pid: int = 0
    errmsg: str = ""
    version: tuple[int, ...] = ()


def response(message: bytes) -> Response:
    """Parse a criu_resp. Raises ValueError for what is none."""

    def first(fields: dict[int, list[Value]], number: int) -> int:
        value = fields.get(number, [0])[0]
        if not isinstance(value, int):
            raise ValueError(f"field {number} is no number")
        return value

    def inner(number: int) -> dict[int, list[Value]]:
        value = fields.get(number, [b""])[0]
        if not isinstance(value, bytes):
            raise ValueError(f"field {number} is no message")
        return decode(value)

    def text(value: Value) -> str:
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""

    fields = decode(message)
    notify, restore, version = inner(5), inner(4), inner(10)
    return Response(
        kind=first(fields, 1),
        success=bool(first(fields, 2)),
        script=text(notify.get(1, [b""])[0]),
        pid=first(notify, 2) or first(restore, 1),
        errmsg=text(fields.get(9, [b""])[0]),
        version=(first(version, 1), first(version, 2), first(version, 4)) if version else (),
    )
