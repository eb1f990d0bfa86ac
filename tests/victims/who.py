# SPDX-License-Identifier: GPL-2.0-or-later
"""A program of two threads and a child; when `go` appears it says with what it runs, and ends.

Waits with its directory as it was started in, one file open for reading and mapped.
"""

import mmap
import os
import sys
import threading
import time
from pathlib import Path

if os.fork() == 0:
    while not os.path.exists("go"):
        time.sleep(0.02)
    os._exit(0)
own = Path(sys.argv[0]).open("rb")  # noqa: SIM115  (as long as it runs)
mapped = mmap.mmap(own.fileno(), 0, access=mmap.ACCESS_READ)
thread = threading.Thread(target=threading.Event().wait, daemon=True)
thread.start()
Path("ready").touch()
while not os.path.exists("go"):
    time.sleep(0.02)
os.wait()
names = ("Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapAmb", "NoNewPrivs", "Seccomp")
for line in Path("/proc/self/status").read_text().splitlines():
    if line.startswith(names):
        print(*line.split(), flush=True)
own.seek(0)
print("file", own.readline().strip().decode(), mapped[:3].decode(), flush=True)
