#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Victim: count to N, a line "RANK I" every 50 ms; exit with STATUS for task 0, else with 0.

What it prints is its proof: a gap or a repeat in any task's lines is a failure.
usage: count.py N [STATUS]
"""

import os
import sys
import time

rank = int(os.environ["SLURM_PROCID"])
for number in range(int(sys.argv[1])):
    print(rank, number, flush=True)
    time.sleep(0.05)
sys.exit(int(sys.argv[2]) if len(sys.argv) > 2 and rank == 0 else 0)
