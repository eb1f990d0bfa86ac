# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals to what has a capability, at the worst moment, by its own user and by another."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

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
from tests.slurm.processes import children, state, status

HELD = 0.5  # seconds: while it still restores, criu stops and starts what it makes


def slice_up(first_pid: int, missed: Callable[[], object]) -> bool:
    """Let a pod's PID 1 and its criu take turns until criu holds what it restored; tell whether it
    did. Their own user may: from outside its namespace PID 1 can be sent SIGSTOP and SIGKILL."""
    with suppress(ProcessLookupError):  # it is gone, or its task runs already
        while words(first_pid) and not children(first_pid) and not missed():
            pass
        while words(first_pid) and not missed():
            os.kill(first_pid, signal.SIGSTOP)
            until("it to stop", lambda: state(first_pid) in ("T", ""))
            until("criu to wait for it", lambda: holds(first_pid) or stays(waits, first_pid, 0.01))
            if stays(holds, first_pid, HELD):
                return True
            others = children(first_pid)
            to_all(others, signal.SIGSTOP)
            os.kill(first_pid, signal.SIGCONT)
            until("it to wait for criu", lambda: stays(asleep, first_pid, 0.01))
            os.kill(first_pid, signal.SIGSTOP)
            to_all(others, signal.SIGCONT)
    return False


def to_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def asleep(pid: int) -> bool:
    return state(pid) in ("S", "Z", "")


def waits(first_pid: int) -> bool:
    """Tell whether criu and what it makes wait."""
    return all(map(asleep, below(first_pid)[1:]))


def holds(first_pid: int) -> bool:
    return any(state(pid) == "t" for pid in below(first_pid))


def stays(probe: Callable[[int], bool], pid: int, seconds: float) -> bool:
    """Tell whether something is so of a process for a while."""
    give_up = time.monotonic() + seconds
    while probe(pid):
        if time.monotonic() > give_up:
            return True
        time.sleep(0.001)
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

    def attack() -> tuple[bool, int, str]:
        (alice.place / "caps").unlink(missing_ok=True)
        restart = alice.popen("pycr", "restart", "--image-dir", ".", step)
        # A pod that refuses at once may not be seen at all.
        until("the pod", lambda: running(alice, "pycr.pod") or restart.poll() is not None)
        first_pid = next(iter(running(alice, "pycr.pod")), 0)
        killed = bool(first_pid) and slice_up(first_pid, lambda: alice.read("caps"))
        if killed:
            held = [pid for pid in below(first_pid) if state(pid) == "t"]
            for pid in children(first_pid):
                os.kill(pid, signal.SIGKILL)
            # Of a system call that criu had it make, it may end by SIGTRAP.
            until("what it held to run on", lambda: alice.read("caps") or not any(map(words, held)))
            os.kill(first_pid, signal.SIGKILL)
        elif alice.read("caps"):
            alice.cancel_all()
        restart.communicate(timeout=30)
        return killed, restart.returncode, alice.read("caps")

    # The attack itself works, when its moment is not missed: what criu held runs, with nothing.
    for _ in range(10):
        killed, code, caps = attack()
        assert killed or caps, code
        if killed and caps:
            break
    else:
        pytest.fail("its moment was missed each time")
    assert f"CapPrm:\t{NOTHING}\nCapEff:\t{NOTHING}" in caps
    first = forge.manifest_of(generation).tasks[0].pids[0]
    claims = dict.fromkeys(("CAP_INH", "CAP_PRM", "CAP_EFF"), forge.CHECKPOINT_RESTORE)
    forge.creds(generation / f"task.0/core-{first}.img", **claims)
    forge.seal(generation)
    assert attack() == (False, 125, "")


# ---- signals ----------------------------------------------------------------------------------

EACH = ["TERM", "KILL", "STOP", "SEGV"]
KILL = """
import os, signal, sys
for pid in map(int, sys.argv[1:]):
    for name in ("SIGTERM", "SIGKILL", "SIGSTOP", "SIGSEGV", "SIGCONT"):
        try:
            os.kill(pid, signal.Signals[name])
        except PermissionError:
            continue
        print("sent", pid, name)
print("done")
"""


def send(pid: int, name: str) -> None:
    os.kill(pid, signal.Signals[f"SIG{name}"])


def no_capability(user: Login, pids: list[int]) -> None:
    """See that none of these holds one."""
    for pid in pids:
        for name in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
            assert status(pid, name) in (NOTHING, ""), (words(pid), name)


def nothing_left(user: Login) -> None:
    """See that nothing of the user's runs on any node."""
    user.cancel_all()
    until("all of it to end", lambda: not in_jobs(user))


def in_jobs(user: Login) -> list[int]:
    """Return what the user runs in jobs."""
    return [pid for pid in all_of(user) if "/slurm" in cgroup(pid)]


def cgroup(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


class Frozen:
    """A step of one task that a helper, by hand, holds frozen."""

    def __init__(self, user: Login) -> None:
        self.user, self.step = user, waiting_step(user)
        made = user.sh("mkdir -p -m 700 image/task.0")
        assert made.returncode == 0, made.stderr
        self.hand = ByHand(user, self.step.split(".")[0], self.step)
        self.hand.ask(FIND, "ready")
        self.hand.ask(dump(f"{user.dir}/image"), "frozen")
        (self.helper,) = running(user, "pycr.node")
        (self.criu,) = named(below(self.helper), "criu")
        (self.task,) = [pid for pid in named(all_of(user), "sleep") if state(pid) == "t"]


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("target", ["helper", "criu"])
def test_its_own_user_at_a_checkpoint(alice: Login, target: str, name: str) -> None:
    """There is no checkpoint then, and the task runs on."""
    held = Frozen(alice)
    send(held.helper if target == "helper" else held.criu, name)
    if target == "helper" and name == "STOP":
        (own,) = [step for step in alice.steps() if step != held.step]
        assert alice.run("scancel", "--signal=KILL", own).returncode == 0
    out, _ = held.hand.srun.communicate("", timeout=30)
    until("the task to run on", lambda: state(held.task) == "S")
    if target == "criu":
        assert '"event":"failed"' in out, out
    no_capability(alice, below(held.task))
    until("helper and criu to end", lambda: not (words(held.helper) or words(held.criu)))
    until("the helper's step to end", lambda: alice.steps() == [held.step])
    done = alice.pycr("create", held.step, "--image-dir", ".")
    assert done.returncode == 0, done.stderr
    nothing_left(alice)


def test_another_user_at_a_checkpoint(alice: Login, bob: Login) -> None:
    held = Frozen(alice)
    done = bob.run("python3", "-c", KILL, *map(inside, (held.helper, held.criu, held.task)))
    assert done.stdout == "done\n", done.stderr
    assert state(held.task) == "t"


@pytest.mark.parametrize(
    ("target", "name", "ends"),
    [
        ("PID 1", "TERM", None),  # of a signal that it does not catch PID 1 hears nothing
        ("PID 1", "SEGV", None),
        ("PID 1", "STOP", None),
        ("PID 1", "KILL", 137),
        ("parent", "TERM", 143),  # is the task's
        ("parent", "SEGV", 139),
        ("parent", "STOP", None),
        ("parent", "KILL", 137),
    ],
)
def test_its_own_user_at_a_pod(alice: Login, target: str, name: str, ends: int | None) -> None:
    """The task runs on, or the step ends and all of it is gone."""
    step, _ = forge.vacated(alice, "sleep", "100")
    restart = alice.popen("pycr", "restart", "--image-dir", ".", step)
    first = pod(alice)
    (task,) = until("it to run", lambda: restored(first, "sleep"))
    parent = int(status(first, "PPid"))
    tree = below(parent)
    send(first if target == "PID 1" else parent, name)
    if ends is None:
        if name == "STOP":
            until("it to stop", lambda: state(first if target == "PID 1" else parent) == "T")
        assert state(task) == "S"
        no_capability(alice, [parent, task])
        if name == "STOP":
            send(first if target == "PID 1" else parent, "CONT")
        again = alice.step()
        assert alice.pycr("create", again, "--image-dir", ".").returncode == 0
        alice.run("scancel", again)
        restart.communicate(timeout=60)
    else:
        restart.communicate(timeout=60)
        assert restart.returncode in (ends, ends - 128, 128 - ends)
    until("all of it to end", lambda: not [pid for pid in tree if words(pid)])
    nothing_left(alice)


def test_another_user_at_a_pod(alice: Login, bob: Login) -> None:
    step, _ = forge.vacated(alice, "sleep", "100")
    alice.popen("pycr", "restart", "--image-dir", ".", step, "--nodelist=n0")
    first = pod(alice)
    (task,) = until("it to run", lambda: restored(first, "sleep"))
    targets = [int(status(first, "PPid")), first, task]
    done = bob.run("python3", "-c", KILL, *map(inside, targets))
    assert done.stdout == "done\n", done.stderr
    assert [state(pid) for pid in targets] == ["S"] * 3
