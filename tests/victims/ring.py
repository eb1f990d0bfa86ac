#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Victim: the tasks take turns in the file `turns`, under flock, each appending its rank.

A task knows how often it had its turn and how long the file must then be; it prints "pass" at its
end, when there is a file `stop`, or says what is wrong. `turns` is held open throughout.
"""

import fcntl
import os
import sys
import time
from pathlib import Path

rank, tasks = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
turns = os.open("turns", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
mine = 0
stop = Path("stop")
while not stop.exists():
    fcntl.flock(turns, fcntl.LOCK_EX)
    size = os.fstat(turns).st_size
    if size % tasks == rank:
        if size != mine * tasks + rank:
            sys.exit(f"fail: task {rank}: turn {mine} is number {size}")
        os.write(turns, b"%d" % rank)
        mine += 1
        time.sleep(0.003)
    fcntl.flock(turns, fcntl.LOCK_UN)
    time.sleep(0.002)
print("pass", flush=True)
