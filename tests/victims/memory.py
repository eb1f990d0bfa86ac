#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Victim: hold MIB of memory that does not compress, and end when the file GO appears.

It ends with 0 if the memory is what it was, else with 1. usage: memory.py MIB READY GO
"""

import hashlib
import os
import sys
import time

size, ready, go = int(sys.argv[1]) << 20, sys.argv[2], sys.argv[3]
memory = bytearray(size)
for offset in range(0, size, 1 << 20):  # piece by piece, so as never to hold it twice
    memory[offset : offset + (1 << 20)] = os.urandom(1 << 20)
before = hashlib.sha256(memory).digest()
with open(f"{ready}.{os.environ.get('SLURM_PROCID', os.getpid())}", "w") as file:
    file.write(str(os.getpid()))
while not os.path.exists(go):
    time.sleep(0.005)
sys.exit(hashlib.sha256(memory).digest() != before if os.environ.get("CHECK") else 0)
