#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Victim: every line of stdin goes to stdout as "RANK LINE"; at its end, "RANK end".

Reads byte by byte, so that what it has not yet answered is still in the pipe; a line "wait" makes
it stop reading until there is a file `go`.
"""

import os
import time
from pathlib import Path

rank = os.environ["SLURM_PROCID"].encode()
line = b""
Path("ready").touch()
while byte := os.read(0, 1):
    line += byte
    if byte != b"\n":
        continue
    os.write(1, rank + b" " + line)
    while line == b"wait\n" and not Path("go").exists():
        time.sleep(0.01)
    line = b""
os.write(1, rank + b" end\n")
