#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Victim: sends "RANK I" over a connection that no checkpoint can have, every 20 ms.

With "callbacks" it closes it before a checkpoint and opens it after, and writes "before", "after"
and "restarted JOB" to stdout; every tenth round is a critical section of 0.3 s, marked by a file
`critical.RANK`. It ends with 0 when there is a file `stop`.
usage: connected.py SOCKET [callbacks]
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

rank = os.environ["SLURM_PROCID"]
place = sys.argv[1]
number = 0
connection: socket.socket | None = None


def connect() -> None:
    global connection
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(place)


def say(text: str) -> None:
    os.write(1, f"{rank} {text}\n".encode())


def before() -> None:
    say("before")
    if Path("later").exists():
        raise pycr.TryLater("there is a file by that name")
    if Path("cannot").exists():
        raise ValueError("it will not")
    disconnect()


def disconnect() -> None:
    global connection
    assert connection is not None
    connection.close()
    connection = None


def after() -> None:
    connect()
    say("after")


def restarted(environment: dict[str, str]) -> None:
    connect()
    same = environment["SLURM_JOB_ID"] == os.environ["SLURM_JOB_ID"]
    say(f"restarted {environment['SLURM_JOB_ID']} {same}")


connect()
if sys.argv[2:]:
    import pycr

    pycr.on_checkpoint(before=before, after=after, restarted=restarted)
while not Path("stop").exists():
    while connection is None:
        time.sleep(0.01)
    try:
        connection.sendall(f"{rank} {number}\n".encode())
        number += 1
    except (OSError, AttributeError):
        continue  # just being closed: to be sent again
    if sys.argv[2:] and number % 10 == 0:
        with pycr.critical_section():
            mark = Path(f"critical.{rank}")
            mark.touch()
            time.sleep(0.3)
            assert connection is not None
            mark.unlink()
    time.sleep(0.02)
say("end")
