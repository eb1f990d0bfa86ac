#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Victim: writes numbered lines to files open in several ways, until there is a file `stop`.

    appended.RANK     O_WRONLY|O_APPEND         written.RANK   O_WRONLY, at its own offset
    updated.RANK      O_RDWR, at its own offset, the first line rewritten each time
    shared            O_WRONLY|O_APPEND, by all tasks: "RANK N" lines
    input             O_RDONLY, read to its end and then waited at, if it is there

Then it reads them all again: each must count from 0 with no gap and no repeat. It prints "pass" and
exits with 7, or says what is wrong. A file `ready.RANK` says that it has begun.
"""

import os
import sys
import time
from pathlib import Path

rank = int(os.environ["SLURM_PROCID"])
CREATE = os.O_CREAT | os.O_TRUNC
appended = os.open(f"appended.{rank}", os.O_WRONLY | os.O_APPEND | CREATE)
written = os.open(f"written.{rank}", os.O_WRONLY | CREATE)
updated = os.open(f"updated.{rank}", os.O_RDWR | CREATE)
shared = os.open("shared", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
source = os.open("input", os.O_RDONLY) if Path("input").exists() else -1
os.write(updated, b"%9d\n" % 0)
number = seen = 0
while not Path("stop").exists():
    line = b"%d\n" % number
    for each in (appended, written, updated):
        os.write(each, line)
    os.pwrite(updated, b"%9d\n" % (number + 1), 0)
    os.write(shared, b"%d %d\n" % (rank, number))
    if source >= 0:
        seen += len(os.read(source, 1 << 16))
    number += 1
    if number == 5:
        Path(f"ready.{rank}").touch()
    time.sleep(0.01)


def check(name: str, lines: list[str]) -> None:
    found = [int(line) for line in lines]
    if found != list(range(number)):
        at = next((i for i, each in enumerate(found) if each != i), len(found))
        print(f"fail: {rank}: {name}: line {at} of {len(found)}, {number} written", flush=True)
        sys.exit(1)


check("appended", Path(f"appended.{rank}").read_text().splitlines())
check("written", Path(f"written.{rank}").read_text().splitlines())
first, *lines = Path(f"updated.{rank}").read_text().splitlines()
check("updated", lines)
if int(first) != number:
    print(f"fail: {rank}: updated says {first}", flush=True)
    sys.exit(1)
mine = [
    line.split()[1]
    for line in Path("shared").read_text().splitlines()
    if line.split()[0] == str(rank)
]
check("shared", mine)
if source >= 0 and seen != Path("input").stat().st_size:
    print(f"fail: {rank}: {seen} bytes of input seen", flush=True)
    sys.exit(1)
print("pass", flush=True)
sys.exit(7)
