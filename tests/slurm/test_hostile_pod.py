# SPDX-License-Identifier: GPL-2.0-or-later
"""What the job's own user, or another one, may do to helper, criu and pod while they work.

Looked at from this machine, which sees the processes of every node with its own ids.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.login import Login, until
from tests.slurm import forge
from tests.slurm.processes import children, state, status

NOTHING = "0" * 16


def below(root: int) -> list[int]:
    """Return a process and all its descendants, by this machine's ids."""
    found = [root]
    for pid in found:
        found += children(pid)
    return found


def words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def running(user: Login, module: str) -> list[int]:
    """Return the trusted helpers of a kind that work in the user's own directory or job."""
    uid = user.place.stat().st_uid
    found = []
    for each in Path("/proc").iterdir():
        pid = int(each.name) if each.name.isdigit() else 0
        if pid and words(pid)[3:4] == [module] and in_cluster(user, each):
            found += [pid] if status(pid, "Uid").split()[:1] == [str(uid)] else []
    return found


def in_cluster(user: Login, process: Path) -> bool:
    """Tell whether a process is of this cluster: another checkout's may run beside it."""
    try:
        return os.path.samefile(process / "root/shared", user.cluster.shared)
    except OSError:
        return False


def pod(user: Login) -> int:
    """Wait for the user's one pod; return its PID 1."""
    return int(until("the pod", lambda: running(user, "pycr.pod")[:1])[0])


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
