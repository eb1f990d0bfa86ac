# SPDX-License-Identifier: GPL-2.0-or-later
"""The fake helper: stands for the trusted interpreter and says in what state it was started.

The plugin executes it with the words meant for `python3 -I -m pycr.node` or `pycr.pod`. It prints
one line of JSON on standard output; as a pod it then follows the file `orders` in the restart
directory, a line each. conftest.py installs it, with a `#!` line before this one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def status() -> dict[str, str]:
    """Return /proc/self/status, a value for each key."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def descriptors() -> dict[str, str]:
    """Return what each open descriptor is, but for the one that lists them."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
    return found


def environment() -> list[str]:
    """Return the environment as execve(2) was given it."""
    return [os.fsdecode(each) for each in Path("/proc/self/environ").read_bytes().split(b"\0")][:-1]


def variables() -> list[str]:
    """Return what the plugin gave a pod of the task's environment."""
    if "pycr.pod" not in sys.argv:
        return []
    given = Path(f"/proc/self/fd/{sys.argv[-6]}").read_bytes()
    assert not given or given.endswith(b"\0")
    return [os.fsdecode(each) for each in given.split(b"\0")[:-1]]


def report() -> dict[str, object]:
    return {
        "argv": sys.argv[1:],
        "environ": environment(),
        "fds": descriptors(),
        "status": status(),
        "cwd": str(Path.cwd()),
        "pid": os.getpid(),
        "oom": int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii")),
        "sid": os.getsid(0),
        "processes": sorted(int(each) for each in os.listdir("/proc") if each.isdigit()),
        "variables": variables(),
        "namespaces": {each: os.readlink(f"/proc/self/ns/{each}") for each in ("pid", "mnt")},
    }


def say(word: str, what: object) -> None:
    os.write(1, f"{word} {json.dumps(what)}\n".encode())


def follow(orders: list[str], ctl: int, pipe: int) -> None:
    """Do what a pod's orders say.

    read N: print N bytes of the ctl pipe; wait: until the ctl pipe ends; stay: for ever;
    exit N: end so; status N: write a wait status on the status pipe.
    """
    for order in orders:
        verb, _, number = order.partition(" ")
        if verb == "read":
            for _each in range(int(number)):
                say("byte", list(os.read(ctl, 1)))
        elif verb == "wait":
            while os.read(ctl, 1):
                pass
        elif verb == "stay":
            signal.pause()
        elif verb == "exit":
            os._exit(int(number))
        elif verb == "status":
            os.write(pipe, int(number).to_bytes(4, sys.byteorder))
            say("wrote", int(number))


def main() -> None:
    say("helper", report())
    if "pycr.pod" in sys.argv:
        directory, ctl, pipe = sys.argv[-10:-7]
        orders = Path(directory, "orders").read_text(encoding="ascii").splitlines()
        follow(orders, int(ctl), int(pipe))


main()
