#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Victim: every 10 ms, or SECONDS, a round that checks itself and leaves "RANK I CHAIN" on stdout
and, behind it, in the file `file.RANK`, held open for appending; until there is a file `stop`, or
ROUNDS are over.

CHAIN is a CRC over all lines so far, kept in memory. A round also checks and rewrites a block of
MIB of memory, whose content says in which round it was written, and has a child send the number
back over a pipe. At its end it checks all of its memory and writes "RANK end I PAUSE" to both,
PAUSE being its longest stop in seconds, and left out where ROUNDS are given, so that the same is
written each time. What is wrong is said as "RANK fail WHAT", and ends it
with 1.
usage: proof.py [MIB [ROUNDS SECONDS]]
"""

from __future__ import annotations

import os
import sys
import time
import zlib
from typing import NoReturn

BLOCK = 4096
LAST_ROUNDS = 5


def link(chain: int, rank: int, number: int) -> int:
    """Return the chain's next value."""
    return zlib.crc32(b"%d %d" % (rank, number), chain)


def block(number: int) -> bytes:
    """Return what a round leaves in its block of memory."""
    return number.to_bytes(8, "big", signed=True) * (BLOCK // 8)


def fail(rank: int, what: str) -> NoReturn:
    os.write(1, f"{rank} fail {what}\n".encode())
    os._exit(1)


def child() -> tuple[int, int]:
    """Start a process that sends back what it is sent; return where to write and to read."""
    there, back = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(there[1])
        os.close(back[0])
        while data := os.read(there[0], 8):
            os.write(back[1], data)
        os._exit(0)
    os.close(there[0])
    os.close(back[1])
    return there[1], back[0]


def main(rank: int, blocks: int, rounds: int = 0, seconds: float = 0.01) -> int:
    """Work until there is a file `stop`, or so many rounds."""
    memory = bytearray().join(block(number - blocks) for number in range(blocks))
    write, read = child()
    file = os.open(f"file.{rank}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    number = chain = 0
    pause = 0.0
    left = LAST_ROUNDS
    last = time.monotonic()
    while left:
        at = number % blocks * BLOCK
        if memory[at : at + BLOCK] != block(number - blocks):
            fail(rank, f"round {number}: block {number % blocks} of the memory is another")
        memory[at : at + BLOCK] = block(number)
        os.write(write, number.to_bytes(8, "big"))
        if int.from_bytes(os.read(read, 8), "big") != number:
            fail(rank, f"round {number}: the child sent back another number")
        chain = link(chain, rank, number)
        line = b"%d %d %08x\n" % (rank, number, chain)
        os.write(1, line)
        os.write(file, line)
        number += 1
        if number == rounds:
            left = 0
        elif not rounds and os.path.exists("stop"):
            left -= 1
        time.sleep(seconds)
        now = time.monotonic()
        pause, last = max(pause, now - last), now
    for each in range(max(0, number - blocks), number):
        at = each % blocks * BLOCK
        if memory[at : at + BLOCK] != block(each):
            fail(rank, f"at the end: block {each % blocks} of the memory is another")
    tail = b"" if rounds else b" %.3f" % pause
    for each in (1, file):
        os.write(each, b"%d end %d%s\n" % (rank, number, tail))
    return 0


if __name__ == "__main__":
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    rest = (int(sys.argv[2]), float(sys.argv[3])) if len(sys.argv) > 3 else ()
    sys.exit(main(int(os.environ["SLURM_PROCID"]), (mib << 20) // BLOCK, *rest))
