#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Victim: task 1 holds something that CRIU cannot dump; every task counts like count.py, for ever.

usage: hold.py inotify | shm | unix PATH | undumpable | stray
"""

import ctypes
import os
import socket
import subprocess
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
rank = int(os.environ["SLURM_PROCID"])
what = sys.argv[1]
held: object = None
if rank == 1:
    if what == "inotify":
        held = libc.inotify_init1(0)
        # Not /etc, where CRIU looks for what is watched (irmap.c).
        assert libc.inotify_add_watch(held, b"/usr/bin", 0x100) > 0, ctypes.get_errno()
    elif what == "shm":
        segment = libc.shmget(0, 4096, 0o1600)  # IPC_PRIVATE, IPC_CREAT
        libc.shmat.restype = ctypes.c_void_p
        held = libc.shmat(segment, None, 0)
        libc.shmctl(segment, 0, None)  # IPC_RMID: gone with this process
    elif what == "unix":
        held = socket.socket(socket.AF_UNIX)
        held.connect(sys.argv[2])
    elif what == "undumpable":
        libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    elif what == "stray":
        subprocess.run(["sh", "-c", "sleep 300 &"], check=True)
number = 0
while True:
    print(rank, number, flush=True)
    number += 1
    time.sleep(0.05)
