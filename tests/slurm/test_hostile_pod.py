# SPDX-License-Identifier: GPL-2.0-or-later
"""What the job's own user, or another one, may do to helper, criu and pod while they work.

Looked at from this machine, which sees the processes of every node with its own ids.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.login import Login, until
from tests.slurm import forge
from tests.slurm.processes import children, state, status

NOTHING = "0" * 16


def below(root: int) -> list[int]:
    """Return a process and all its descendants, by this machine's ids; of its threads too."""
    found = [root]
    for pid in found:
        for thread in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):
                found += [int(word) for word in thread.read_text().split()]
    return found


def named(pids: list[int], name: str) -> list[int]:
    """Return those of the processes that run a program of that name."""
    return [pid for pid in pids if status(pid, "Name").strip() == name]


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


# ---- the helper, by hand ----------------------------------------------------------------------


class ByHand:
    """A helper that a user starts without pycr, and talks to."""

    def __init__(self, user: Login, job: str, target: str, *more: str) -> None:
        self.srun = user.popen(
            "srun",
            "--overlap",
            f"--jobid={job}",
            "-n1",
            "-N1",
            *more,
            f"--cr-helper={target}",
            "sh",
            "-c",
            "echo own command",
            stdin=subprocess.PIPE,
        )

    def say(self, *lines: object) -> tuple[int, str, str]:
        """Say lines to it, end its input, and return how it ended."""
        text = "".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines)
        out, err = self.srun.communicate(text, timeout=60)
        return self.srun.returncode, out, err

    def ask(self, line: object, event: str) -> None:
        """Say a line and wait for an event."""
        assert self.srun.stdin and self.srun.stdout
        self.srun.stdin.write(json.dumps(line) + "\n")
        self.srun.stdin.flush()
        for each in self.srun.stdout:
            if f'"event":"{event}"' in each or '"event":"error"' in each:
                assert f'"event":"{event}"' in each, each
                return


FIND = {"do": "find", "tasks": {"n0": [0]}, "wait": 0.0}


def dump(directory: str) -> dict[str, object]:
    return {"do": "dump", "dir": directory, "keep": True, "timeout": 60, "hold": True}


@pytest.fixture
def waiting(alice: Login) -> str:
    """A step of alice's on n0; returns its name."""
    alice.popen("srun", "-n1", "-w", "n0", "sleep", "120")
    return alice.step()


def test_another_users_step(alice: Login, bob: Login, waiting: str) -> None:
    """bob's helper, for alice's step: from within his own job he cannot reach hers."""
    bob.popen("srun", "-n1", "-w", "n0", "sleep", "120")
    own = bob.step()
    status_, out, err = ByHand(bob, own.split(".")[0], waiting).say(FIND)
    assert status_ != 0
    assert "cannot reach" in out, (out, err)
    status_, out, err = ByHand(bob, waiting.split(".")[0], waiting).say(FIND)
    assert status_ != 0
    assert re.search("denied|Access|Invalid", err), err
    assert alice.pycr("create", waiting, "--image-dir", ".").returncode == 0


@pytest.mark.parametrize("target", ["1.0;id", "../1", "-1.0", "1.batchx", "1.0 2", "x" * 5000, ""])
def test_odd_targets(alice: Login, waiting: str, target: str) -> None:
    status_, out, err = ByHand(alice, waiting.split(".")[0], target).say()
    assert (status_ != 0, "own command" in out) == (True, False)
    assert "--cr-helper" in err


def test_root_has_no_helper(login: Callable[[str], Login], alice: Login, waiting: str) -> None:
    root = login("root")
    root.popen("srun", "-n1", "-w", "n0", "sleep", "60")
    mine = root.step()
    for target in (waiting, mine):
        status_, out, _ = ByHand(root, target.split(".")[0], target).say(FIND)
        assert (status_ != 0, "own command" in out) == (True, False)


@pytest.mark.parametrize(
    "lines",
    [
        ["x" * 100_000],
        ["[" * 100_000],
        ["[]"],
        [{"do": "nothing"}],
        [{"do": "find", "tasks": {"n0": ["a"]}, "wait": 0}],
        [{"do": "find", "tasks": {"n9": [0]}, "wait": 0}],
        [{**FIND, "wait": "x"}],
        [FIND, dump("/etc")],
        [FIND, dump("/root")],
        [FIND, dump("/tmp")],
        [FIND, dump("relative")],
        [FIND, {**dump("/x"), "timeout": "NaN"}],
        [dump("/x")],
    ],
    ids=str,
)
def test_what_it_is_told(alice: Login, waiting: str, lines: list[object]) -> None:
    """It takes nothing that the user could not do, and the task runs on."""
    status_, out, err = ByHand(alice, waiting.split(".")[0], waiting).say(*lines)
    assert status_ != 0
    assert '"event":"error"' in out, (out, err)
    assert "Traceback" not in err
    assert alice.steps() == [waiting]


def test_it_writes_into_no_other_users_directory(alice: Login, bob: Login, waiting: str) -> None:
    bob.place.chmod(0o777)
    (bob.place / "open").mkdir(mode=0o777)
    (bob.place / "open").chmod(0o777)
    for directory in (bob.dir, f"{bob.dir}/open"):
        _, out, _ = ByHand(alice, waiting.split(".")[0], waiting).say(FIND, dump(directory))
        assert "another user's" in out
    assert not list((bob.place / "open").iterdir())


# ---- looking into what has a capability -------------------------------------------------------

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


def inside(pid: int) -> str:
    """Return a process's id as its node has it: the second, this machine's being the first."""
    return status(pid, "NSpid").split()[1]


def peek(user: Login, *pids: int) -> str:
    done = user.run("python3", "-c", PEEK, *(inside(pid) for pid in pids))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nobody_looks_into_a_helper_or_its_criu(alice: Login, bob: Login, waiting: str) -> None:
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


def all_of(user: Login) -> list[int]:
    uid = str(user.place.stat().st_uid)
    pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]
    mine = [pid for pid in pids if status(pid, "Uid").split()[:1] == [uid]]
    return [pid for pid in mine if in_cluster(user, Path(f"/proc/{pid}"))]


def test_nobody_looks_into_a_pod(alice: Login, bob: Login) -> None:
    step, _ = forge.vacated(alice, "sleep", "100")
    alice.popen("pycr", "restart", "--image-dir", ".", step)
    first = pod(alice)
    until("it to run", lambda: named(below(first), "sleep"))
    parent = int(status(first, "PPid"))
    assert words(parent)[0].startswith("slurmstepd")
    assert {status(parent, name) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {NOTHING}
    for user in (alice, bob):
        # The parent has no capability, but slurmstepd's memory: the kernel hides it as well.
        assert peek(user, first, parent) == "done 2\n"
    (task,) = named(below(first), "sleep")
    assert "SEEN" in peek(alice, task)
    assert peek(bob, task) == "done 1\n"


# ---- names that another user takes ------------------------------------------------------------

BIND = """
import socket, sys, time
held = socket.socket(socket.AF_UNIX)
held.bind("\\0" + sys.argv[1])
if sys.argv[2] != "deaf":
    held.listen(0)
    full = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for each in full:
        each.setblocking(False)
        try:
            each.connect("\\0" + sys.argv[1])
        except OSError:
            pass
print("bound", flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("how", ["deaf", "full"])
def test_another_user_takes_the_claims_name(
    alice: Login, bob: Login, waiting: str, how: str
) -> None:
    holder = bob.popen("python3", "-c", BIND, f"pycr-dump-1001-{waiting}", how)
    assert holder.stdout and holder.stdout.readline() == "bound\n"
    began = time.monotonic()
    done = alice.pycr("create", waiting, "--image-dir", ".")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 20


def test_another_user_knocks_at_a_pod(alice: Login, bob: Login) -> None:
    """Its name is on its command line, and taken before it is there; who knocks is not heard."""
    step, _ = forge.vacated(alice, "sleep", "100")
    alice.popen("pycr", "restart", "--image-dir", ".", step)
    again = alice.step()
    name = next(word for word in words(pod(alice)) if re.fullmatch("pycr-[0-9a-f]{16}", word))
    assert bob.run("python3", "-c", BIND, name, "deaf").returncode != 0  # at any moment
    knock = f"""
import socket
for _ in range(200):
    with socket.socket(socket.AF_UNIX) as pod:
        pod.connect("\\0{name}")
        try:
            pod.sendall(b'{{"do":"describe"}}\\n')
            assert pod.recv(100) == b""
        except OSError:
            pass
"""
    done = bob.run("python3", "-c", knock)
    assert done.returncode == 0, done.stderr
    assert alice.pycr("create", again, "--image-dir", ".").returncode == 0


# ---- programs that are not the user's alone ---------------------------------------------------


def test_a_set_user_id_program(alice: Login) -> None:
    """su waits for a password, with root's memory: it is not looked into."""
    alice.popen("srun", "-n1", "-w", "n0", "su", stdin=subprocess.PIPE)
    step = alice.step()
    until("su", lambda: named(in_step(alice), "su"))
    done = alice.pycr("create", step, "--image-dir", ".")
    assert done.returncode == 9, done.stderr
    assert re.fullmatch(
        r"pycr: step .* task 0 on n0: process \d+ \(su\) of it has user id 0, which a restart could"
        r" not give it: a set-user-ID program or a container cannot be checkpointed\n",
        done.stderr,
    ), done.stderr
    assert not list(alice.place.glob("*/*"))


def in_step(user: Login) -> list[int]:
    """Return what runs under this cluster's slurmstepds as anybody."""
    pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]
    return [pid for pid in pids if in_cluster(user, Path(f"/proc/{pid}"))]


def test_a_set_user_id_child(alice: Login) -> None:
    script = "sleep 100 | su & touch ready; wait"
    alice.popen("srun", "-n1", "-w", "n0", "bash", "-c", script)
    step = alice.step()
    until("su", lambda: named(in_step(alice), "su"))
    done = alice.pycr("vacate", step, "--image-dir", ".")
    assert done.returncode == 9, done.stderr
    assert "(su) of it has user id 0" in done.stderr
    assert alice.steps() == [step]


def test_a_set_group_id_program(alice: Login) -> None:
    made = alice.sh("cp /bin/sleep waits && chgrp lab waits && chmod 2755 waits")
    assert made.returncode == 0, made.stderr
    alice.popen("srun", "-n1", "-w", "n0", "./waits", "100")
    step = alice.step()
    until("it", lambda: named(all_of(alice), "waits"))
    done = alice.pycr("create", step, "--image-dir", ".")
    assert done.returncode == 9, done.stderr
    assert "(waits) of it has group id 1100" in done.stderr


def test_a_container_of_the_users_own(alice: Login) -> None:
    alice.popen("srun", "-n1", "-w", "n0", "unshare", "-r", "sleep", "100")
    step = alice.step()
    until("it", lambda: named(all_of(alice), "sleep"))
    done = alice.pycr("create", step, "--image-dir", ".")
    assert done.returncode == 9, done.stderr
    assert "(sleep) of it has capabilities" in done.stderr
