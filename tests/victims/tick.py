#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Victim: a line "RANK I" on stdout and on stderr every 10 ms, until there is a file `stop`.

The size of `beat.RANK` is I, so that others see it live without a file being open. At its end it
writes its longest pause as "pause RANK START END" (seconds, CLOCK_MONOTONIC) to stdout, then ends
with STATUS, or of the signal SIG<STATUS>; rank 0 alone, the others with 0.
usage: tick.py [STATUS [MIB]]       MIB: of memory to hold; TICK in the environment: other seconds
"""

import os
import signal
import sys
import time
from pathlib import Path

rank = int(os.environ["SLURM_PROCID"])
status = sys.argv[1] if len(sys.argv) > 1 else "0"
ballast = bytearray(b"\1") * (int(sys.argv[2]) << 20 if len(sys.argv) > 2 else 0)
pause = float(os.environ.get("TICK", "0.01"))
beat = f"beat.{rank}"
Path(beat).touch()
stop = Path("stop")
number = 0
longest = (0.0, 0.0)
last = time.monotonic()
while not stop.exists():
    line = b"%d %d\n" % (rank, number)
    os.write(1, line)
    os.write(2, line)
    number += 1
    os.truncate(beat, number)
    time.sleep(pause)
    now = time.monotonic()
    if now - last > longest[1] - longest[0]:
        longest = (last, now)
    last = now
os.write(1, b"pause %d %.6f %.6f\n" % (rank, *longest))
if rank == 0 and not status.isdigit():
    os.kill(os.getpid(), signal.Signals["SIG" + status])
sys.exit(int(status) if rank == 0 else 0)
