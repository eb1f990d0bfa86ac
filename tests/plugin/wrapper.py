# SPDX-License-Identifier: GPL-2.0-or-later
"""The fake srun_cr: says in what state the plugin's --cr made it, and what its child sent.

test_wrap.py installs it as the interpreter (python=) that the plugin executes srun_cr with. It
prints one line of JSON when the child, the srun that the plugin started beside it, has ended; in a
job there is no child, and it does so at once.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

WANTED = ("SigBlk", "SigIgn")


def main() -> None:
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    given = [os.fsdecode(each) for each in Path("/proc/self/environ").read_bytes().split(b"\0")]
    told = {key[8:]: value for key, value in os.environ.items() if key.startswith("SRUN_CR_")}
    report: dict[str, object] = {
        "argv": [os.fsencode(each).hex() for each in sys.argv[1:]],
        "environ": given[:-1],
        "told": told,
        "signals": {line[:6]: int(line.split()[1], 16) for line in status if line[:6] in WANTED},
        "pid": os.getpid(),
        "pgrp": os.getpgrp(),
        "children": Path("/proc/thread-self/children").read_text(encoding="ascii").split(),
    }
    if "CHILD" in told:
        report.update(adopt(told))
    os.write(1, f"wrapper {json.dumps(report)}\n".encode())
    sys.exit(5)


def adopt(told: dict[str, str]) -> dict[str, object]:
    """Wait for the srun that the plugin has started, and say what it did; none in a job."""
    child = int(told["CHILD"])
    listener = socket.socket(fileno=int(told["LISTENER"]))
    _, ended = os.waitpid(child, 0)
    listener.setblocking(False)
    frame = b""
    try:
        connection, _ = listener.accept()
        with connection:
            connection.setblocking(True)
            frame = connection.recv(4096)
    except BlockingIOError:
        pass
    path = Path(told["SOCKET"])
    found: dict[str, object] = {
        "mode": path.parent.stat().st_mode & 0o7777,
        "ended": ended,
        "frame": frame.hex(),
    }
    path.unlink()
    path.parent.rmdir()
    return found


main()
