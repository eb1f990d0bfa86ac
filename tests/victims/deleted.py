#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Victim: has a file open that is deleted, or about to be, and works on it until there is `stop`.

usage: deleted.py KIND [MIB]
    open MIB      a deleted file of MIB MiB, open
    mapped MIB    the same, mapped and closed
    nfs           a file of the name that NFS gives to a deleted one; whoever runs this deletes it

It prints "pass" and exits with 7 where all that it wrote is still there. `ready` says it has begun.
"""

import mmap
import os
import sys
import time
from pathlib import Path

kind = sys.argv[1]
name = ".nfs00000000deadbeef00000001" if kind == "nfs" else "deleted"
size = int(sys.argv[2]) << 20 if len(sys.argv) > 2 else 1 << 16
block = bytes(range(256)) * 4096
file = os.open(name, os.O_RDWR | os.O_CREAT, 0o640)
for _ in range(max(1, size >> 20)):
    os.write(file, block[:size])
memory = mmap.mmap(file, size) if kind == "mapped" else None
if kind != "nfs":
    os.unlink(name)
if memory is not None:
    os.close(file)
number = 0
while not Path("stop").exists():
    word = b"%08d" % number
    if memory is not None:
        memory[:8] = word
    else:
        os.pwrite(file, word, 0)
    number += 1
    if number == 5:
        Path("ready").touch()
    time.sleep(0.01)
data = memory[:] if memory is not None else os.pread(file, size, 0)
wanted = (block * max(1, size >> 20))[:size]
if data[:8] != b"%08d" % (number - 1) or data[8:] != wanted[8:]:
    print("fail: it is another file", flush=True)
    sys.exit(1)
if memory is None and (os.fstat(file).st_mode & 0o777) != 0o640:
    print("fail: its mode is another", flush=True)
    sys.exit(1)
print("pass", flush=True)
sys.exit(7)
