# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel says of sockets by their inodes: a Unix socket's peer, a TCP connection's ends.

/proc/net/unix has no peers: they are asked of the kernel over netlink (sock_diag(7)), which every
user may. Only sockets of this network namespace are seen; tasks have no other.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

# linux/netlink.h, sock_diag.h, unix_diag.h
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
DUMP = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
NLMSG_ERROR, NLMSG_DONE = 2, 3
SHOW_NAME, SHOW_PEER = 1, 4
ATTR_NAME, ATTR_PEER = 0, 2
HEADER = struct.Struct("=IHHII")
REQUEST = struct.Struct("=BBHIIIII")
ENTRY = struct.Struct("=BBBxIII")
ATTR = struct.Struct("=HH")
BUFFER = 1 << 16

# net/tcp_states.h: what CRIU dumps without --tcp-established or --tcp-close
TCP_CLOSE, TCP_LISTEN = 7, 10
INTERNET = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")


class Unix(NamedTuple):
    """A Unix socket. peer: the inode of the other end, 0 where it has none."""

    peer: int
    name: str


class Internet(NamedTuple):
    """A TCP, UDP or raw socket. connected: whether it is a TCP connection, in whatever state."""

    protocol: str
    connected: bool
    remote: str


def unix() -> dict[int, Unix]:
    """Return the Unix sockets by inode. Raises OSError."""
    found: dict[int, Unix] = {}
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
    ) as link:
        ask = REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, SHOW_NAME | SHOW_PEER, 0, 0)
        header = HEADER.pack(HEADER.size + len(ask), SOCK_DIAG_BY_FAMILY, DUMP, 1, 0)
        link.send(header + ask)
        while True:
            for kind, data in _messages(link.recv(BUFFER)):
                if kind == NLMSG_DONE:
                    return found
                if kind == NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", data)[0], "sock_diag")
                inode = ENTRY.unpack_from(data)[3]
                peer, name = 0, ""
                for attribute, value in _attributes(data[ENTRY.size :]):
                    if attribute == ATTR_PEER:
                        peer = struct.unpack("=I", value)[0]
                    elif attribute == ATTR_NAME:
                        name = os.fsdecode(value.rstrip(b"\0").replace(b"\0", b"@"))
                found[inode] = Unix(peer, name)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= HEADER.size:
        size, kind = HEADER.unpack_from(data)[:2]
        yield kind, data[HEADER.size : size]
        data = data[(max(size, HEADER.size) + 3) & ~3 :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= ATTR.size:
        size, kind = ATTR.unpack_from(data)
        yield kind, data[ATTR.size : size]
        data = data[(max(size, ATTR.size) + 3) & ~3 :]


def internet() -> dict[int, Internet]:
    """Return the TCP, UDP and raw sockets by inode. A TCP socket that was never used is in none."""
    found: dict[int, Internet] = {}
    for protocol in INTERNET:
        with suppress(OSError), open(f"/proc/self/net/{protocol}") as file:
            next(file, None)
            for line in file:
                words = line.split()
                tcp = protocol.startswith("tcp")
                connected = tcp and int(words[3], 16) not in (TCP_CLOSE, TCP_LISTEN)
                name = protocol.rstrip("6").upper() if protocol[0] != "r" else "raw"
                found[int(words[9])] = Internet(name, connected, address(words[2]))
    found.pop(0, None)  # of connections that no process has any more
    return found


def address(text: str) -> str:
    """Return an address as people write it: /proc/net has its words in hexadecimal."""
    host, _, port = text.partition(":")
    words = struct.unpack(f">{len(host) // 8}I", bytes.fromhex(host))
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    if len(words) == 1:
        return f"{socket.inet_ntop(socket.AF_INET, packed)}:{int(port, 16)}"
    return f"[{socket.inet_ntop(socket.AF_INET6, packed)}]:{int(port, 16)}"
