# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals to what has a capability, at the worst moment, by its own user and by another."""

from __future__ import annotations

import os
import signal
import time

from tests.login import Login, until
from tests.slurm import forge
from tests.slurm.hostile import NOTHING, below, pod, words
from tests.slurm.processes import children, state


def slice_up(first_pid: int) -> bool:
    """Let a pod's PID 1 do a little at a time until criu holds what it restored; tell whether it
    did. Its own user may: from outside its namespace it can be sent SIGSTOP and SIGKILL."""
    while words(first_pid):
        os.kill(first_pid, signal.SIGSTOP)
        until("it to stop", lambda: state(first_pid) in ("T", ""))
        for _ in range(10):
            if any(state(pid) == "t" for pid in below(first_pid)):
                return True
            time.sleep(0.001)
        os.kill(first_pid, signal.SIGCONT)
    return False


def test_killing_criu_gives_nothing(alice: Login) -> None:
    """Whoever stops PID 1 and kills criu lets the tree run as it then is: it must have nothing."""
    script = """if True:
        import os, time
        open("ready", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
        with open("caps.new", "w") as file:
            file.write(open("/proc/self/status").read())
        os.rename("caps.new", "caps")
        time.sleep(60)
    """
    step, generation = forge.vacated(alice, "python3", "-c", script, ready="ready")
    (alice.place / "go").touch()

    def attack() -> tuple[int, str]:
        restart = alice.popen("pycr", "restart", "--image-dir", ".", step)
        first_pid = pod(alice)
        if slice_up(first_pid):
            for pid in children(first_pid):
                os.kill(pid, signal.SIGKILL)
            until("what criu held to run on", lambda: alice.read("caps"))
            os.kill(first_pid, signal.SIGKILL)
        restart.communicate(timeout=30)
        return restart.returncode, alice.read("caps")

    # The attack itself works: what criu held runs, with nothing.
    _, caps = attack()
    assert f"CapPrm:\t{NOTHING}\nCapEff:\t{NOTHING}" in caps
    (alice.place / "caps").unlink()
    first = forge.manifest_of(generation).tasks[0].pids[0]
    claims = dict.fromkeys(("CAP_INH", "CAP_PRM", "CAP_EFF"), forge.CHECKPOINT_RESTORE)
    forge.creds(generation / f"task.0/core-{first}.img", **claims)
    forge.seal(generation)
    assert attack() == (125, "")
