# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking into what has a capability: ptrace and /proc, by its own user and by another."""

from __future__ import annotations

import os

from tests.login import Login, until
from tests.slurm import forge
from tests.slurm.hostile import (
    FIND,
    NOTHING,
    ByHand,
    all_of,
    below,
    dump,
    inside,
    named,
    pod,
    restored,
    running,
    waiting_step,
    words,
)
from tests.slurm.processes import state, status

PEEK = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for pid in map(int, sys.argv[1:]):
    for name in "mem environ maps auxv fd/0 cwd root exe map_files ns/pid".split():
        try:
            path = f"/proc/{pid}/{name}"
            if name in ("mem", "environ", "maps", "auxv"):
                with open(path, "rb") as file:
                    file.read(1)
            elif name == "map_files":
                os.listdir(path)
            elif name == "fd/0":
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
            else:
                os.readlink(path)
        except PermissionError:
            continue
        except OSError as error:
            print(pid, name, "other", error)
            continue
        print(pid, name, "SEEN")
    for request in (16, 0x4206):  # PTRACE_ATTACH, PTRACE_SEIZE
        if libc.ptrace(request, pid, 0, 0) == 0:
            print(pid, "TRACED")
        elif ctypes.get_errno() != 1:
            print(pid, "other", ctypes.get_errno())
print("done", len(sys.argv) - 1)
"""


def peek(user: Login, *pids: int) -> str:
    done = user.run("python3", "-c", PEEK, *(inside(pid) for pid in pids))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nobody_looks_into_a_helper_or_its_criu(alice: Login, bob: Login) -> None:
    waiting = waiting_step(alice)
    (alice.place / "image").mkdir(mode=0o700)
    (alice.place / "image/task.0").mkdir(mode=0o700)
    os.chown(alice.place / "image", 1001, 1001)
    os.chown(alice.place / "image/task.0", 1001, 1001)
    hand = ByHand(alice, waiting.split(".")[0], waiting)
    hand.ask(FIND, "ready")
    hand.ask(dump(f"{alice.dir}/image"), "frozen")
    (helper,) = running(alice, "pycr.node")
    held = [pid for pid in below(helper) if int(status(pid, "CapPrm") or "0", 16)]
    assert len(held) == 2, [words(pid) for pid in held]  # the helper and criu
    for user in (alice, bob):
        assert peek(user, *held) == f"done {len(held)}\n"
    # The task itself, which has none, is its user's to look at: the probe works.
    leader = named(all_of(alice), "sleep")[0]
    assert "SEEN" in peek(alice, leader)
    hand.srun.terminate()
    hand.srun.communicate(timeout=30)
    until("the helper to go", lambda: not running(alice, "pycr.node"))
    assert until("the task to run on", lambda: state(leader) == "S")


def test_nobody_looks_into_a_pod(alice: Login, bob: Login) -> None:
    step, _ = forge.vacated(alice, "sleep", "100")
    alice.popen("pycr", "restart", "--image-dir", ".", step)
    first = pod(alice)
    (task,) = until("it to run", lambda: restored(first, "sleep"))
    parent = int(status(first, "PPid"))
    assert words(parent)[0].startswith("slurmstepd")
    assert {status(parent, name) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {NOTHING}
    for user in (alice, bob):
        # The parent has no capability, but slurmstepd's memory: the kernel hides it as well.
        assert peek(user, first, parent) == "done 2\n"
    assert "SEEN" in peek(alice, task)
    assert peek(bob, task) == "done 1\n"
