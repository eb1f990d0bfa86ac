# SPDX-License-Identifier: GPL-2.0-or-later
"""What a task may hold that no checkpoint can have: it is named before anything is frozen.

With process and descriptor, in one line; the task runs on, and nothing is left behind. What the
machine, the disk or the image forbids: test_refusals_2.py.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.login import Login, until
from tests.slurm.test_callbacks import PACKAGE
from tests.slurm.test_failures import LISTEN, assert_fails

PTY = "import os, time; print(os.ttyname(os.openpty()[1]), flush=True); time.sleep(1000)"
KEEPS = """
import ctypes, os, time
import pycr
libc = ctypes.CDLL(None)
def hold():
    if not os.path.exists("hold"):
        return
    libc.inotify_add_watch(libc.inotify_init1(0), b"/usr/bin", 0x100)
pycr.on_checkpoint(before=hold, after=lambda: print("after", flush=True))
number = 0
while True:
    print(number, flush=True)
    number += 1
    time.sleep(0.05)
"""
DEVICES = ("/dev/nvidia0", "/dev/dri/renderD128", "/dev/kfd", "/dev/infiniband/uverbs0")


class Holder:
    """One task of alice's on n0 that holds something; `start` begins it, or goes on with it."""

    def __init__(self, alice: Login, kind: str, *arguments: str) -> None:
        self.alice = alice
        victim = alice.victim("held.py")
        self.process = alice.popen("srun", "-n1", "-wn0", "-oout", victim, kind, *arguments)
        self.step = alice.step()
        self.ticks()

    def ticks(self) -> None:
        """Wait until it has counted on."""
        seen = len(self.alice.read("out").split())
        until("it to count", lambda: len(self.alice.read("out").split()) > seen + 1)

    def hold(self) -> None:
        """Have it hold what it is for."""
        (self.alice.place / "hold").touch()
        until("it to hold", lambda: "held" in self.alice.read("out").split())

    def refused(self, status: int, *words: str) -> str:
        """Both verbs refuse it with these words; it runs on; nothing was begun."""
        said = ""
        for verb in ("create", "vacate"):
            done = self.alice.pycr(verb, self.step, "--image-dir", ".")
            assert_fails(done, status, f"step {self.step}: task 0 on n0: ", *words)
            said = done.stderr
        assert "CRIU's log" not in said
        assert not (self.alice.place / self.step).exists(), "a generation was begun"
        self.ticks()
        until("its helpers to end", lambda: self.alice.steps() == [self.step])
        return said


@pytest.fixture
def socket(alice: Login) -> str:
    """The path of a Unix socket on n0 at which somebody listens."""
    path = f"/tmp/{alice.place.name[-20:]}"
    process = alice.popen("python3", "-c", LISTEN, path, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("inotify", ["descriptor ", "is a watch on files (inotify), which CRIU cannot dump"]),
        ("io_uring", ["descriptor ", "is an io_uring, which CRIU cannot dump"]),
        ("sysv", ["has System V shared memory (shmget, key 0x00000000)", "use shm_open"]),
        ("traced", ["is traced by process ", "(python3): end the debugger"]),
        ("hard_link .", ["is a file that was deleted or replaced, as /", "/one, and still has an"]),
        ("hard_link /dev/shm", ["replaced, as /dev/shm/one, and still has another name"]),
        ("unix SOCKET", ["is a Unix socket (SOCKET) connected to a process outside the task"]),
        ("tcp n0 6817", ["is a TCP connection to 10.213.0.10:6817: close it before"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_held(alice: Login, socket: str, kind: str, words: list[str]) -> None:
    task = Holder(alice, *kind.replace("SOCKET", socket).split())
    task.hold()
    said = task.refused(9, *(word.replace("SOCKET", socket) for word in words))
    assert re.search(r"process [0-9]+ \((?:python3|held.py)\)", said), said


@pytest.mark.parametrize(
    ("kind", "where"),
    [("program", "the program"), ("mapping", "memory"), ("device", "descriptor 3")],
)
def test_deleted_file_of_another_user(alice: Login, kind: str, where: str) -> None:
    """As when a package is upgraded: its restore would have to give the file to root."""
    path = alice.place / "theirs"
    shutil.copy("/bin/sleep", path)
    task = Holder(alice, kind, "./theirs")
    task.hold()
    path.unlink()
    said = task.refused(9, f"{where} of process ", " is a file that was deleted or replaced (/")
    assert "/theirs) and belongs to another (uid 0, gid 0): a restore could not" in said


@pytest.fixture
def devices(cluster: Any) -> Iterator[None]:
    """Device files on n0 by the names that drivers give theirs; /dev/null is behind them."""
    run = cluster.node("n0").run
    for path in DEVICES:
        script = 'mkdir -p "$(dirname "$0")"; mknod -m 666 "$0" c 1 3'
        run(["sh", "-c", script, path], check=True)
    yield
    run(["rm", "-r", "/dev/dri", "/dev/infiniband", *DEVICES[::2]], check=True)


@pytest.mark.parametrize("path", DEVICES)
def test_device(alice: Login, devices: None, path: str) -> None:
    task = Holder(alice, "device", path)
    task.hold()
    what = "a network card, for RDMA" if "infiniband" in path else "a GPU"
    task.refused(9, "descriptor ", f"is {what} ({path}), whose state no checkpoint has")


def test_terminal_beside_the_streams(alice: Login) -> None:
    """One that the task has opened for itself, and whose other end is not the task's."""
    other = alice.popen("python3", "-c", PTY)
    assert other.stdout is not None
    path = other.stdout.readline().strip()
    task = Holder(alice, "terminal", path)
    task.hold()
    task.refused(9, "descriptor ", f"is a terminal ({path}), which a restart would not have")


def test_internet_socket_where_criu_cannot(cluster: Any, alice: Login) -> None:
    """Not only a connection: before 4.2, CRIU can dump no socket of the kind on this kernel."""
    criu, kernel = (cluster.status()["versions"][name] for name in ("criu", "kernel"))
    if not (criu.startswith("4.1") and tuple(map(int, kernel.split(".")[:2])) >= (6, 16)):
        pytest.skip(f"expected: CRIU {criu} can, on Linux {kernel}")
    task = Holder(alice, "listener")
    task.hold()
    task.refused(9, "is a TCP socket, which CRIU cannot dump here", "need 4.2 on kernels from 6.16")


def test_memory_shared_with_another_step(alice: Login) -> None:
    """A restore would part them without a word; whichever of them is checkpointed."""
    task = Holder(alice, "memory", "mark")
    task.hold()
    mark = (alice.place / "mark").read_text().split()
    other = alice.popen("srun", "-n1", "-wn0", "-oother", "./held.py", "memory", "mark")
    until("the other to hold", lambda: "held" in alice.read("other").split())
    step = next(each for each in alice.steps() if each != task.step)
    words = "restored, each would have its own"
    for name in (task.step, step):
        done = alice.pycr("create", name, "--image-dir", ".")
        assert_fails(done, 9, "shares memory (/memfd:together (deleted)) with process ", words)
        if name == step:
            assert f"with process {mark[0]} (" in done.stderr
    task.ticks()
    alice.run("scancel", step.partition(".")[0])
    other.communicate(timeout=20)
    until("the other to be gone", lambda: alice.steps() == [task.step])
    done = alice.pycr("create", task.step, "--image-dir", ".")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["inotify /usr/bin", "unix SOCKET", "memory mark", "traced"])
def test_restored_task(alice: Login, socket: str, kind: str) -> None:
    """In its pod it is looked at as well, and named by its own ids."""
    task = Holder(alice, *kind.replace("SOCKET", socket).split())
    done = alice.pycr("vacate", task.step, "--image-dir", ".")
    assert done.returncode == 0, done.stderr
    task.process.communicate(timeout=20)
    until("the step to go", lambda: not alice.steps())
    (generation,) = alice.pycr_json("ls", ".")
    own = json.loads((alice.place / task.step / "0001/manifest.json").read_text())
    root = own["manifest"]["tasks"][0]["pids"][0]
    options = ("-wn0", "-oout", "--open-mode=append")
    alice.popen("pycr", "restart", generation["path"], *options)
    task.step = alice.step()
    task.ticks()
    task.hold()
    if kind.startswith("memory"):
        # Its mark has its pid in the pod: the other must have the one that all see.
        pid = alice.run("pgrep", "-u", "alice", "-f", "^python3 .*held.py memory").stdout.split()[0]
        (alice.place / "mark").write_text(f"{pid} {(alice.place / 'mark').read_text().split()[1]}")
        alice.popen("python3", "held.py", "memory", "mark", stdout=subprocess.DEVNULL)
        until(
            "it to be shared",
            lambda: (
                len(alice.run("sh", "-c", "grep -l together /proc/[0-9]*/maps").stdout.split()) >= 2
            ),
        )
        words = ["it shares memory (/memfd:together (deleted)) with process "]
    elif kind == "traced":
        words = [f"is traced by process {root} ("]
    else:
        words = [f"descriptor 3 of process {root} (python3) is a "]
    task.refused(9, *words)


@pytest.mark.parametrize(
    "kind", ["many 300", "pty", "empty_inotify", "deleted", "memory mark", "replaced", "directory"]
)
def test_what_is_no_harm(alice: Login, kind: str) -> None:
    """What looks like it, and can be dumped and restored, is not refused."""
    task = Holder(alice, *kind.split())
    task.hold()
    done = alice.pycr("create", task.step, "--image-dir", ".")
    assert done.returncode == 0, done.stderr
    task.ticks()
    done = alice.pycr("vacate", task.step, "--image-dir", ".")
    assert done.returncode == 0, done.stderr
    task.process.communicate(timeout=20)
    alice.popen("pycr", "restart", "--image-dir", ".", task.step, "-oout", "--open-mode=append")
    task.ticks()


@pytest.mark.parametrize("lives", [1, 2])
def test_program_with_callbacks_that_does_not_let_go(alice: Login, lives: int) -> None:
    """It is looked at when it says that it is ready, then told to go on; restored as well."""
    (alice.place / "keeps.py").write_text(KEEPS)
    process = alice.popen(
        *("srun", "-n1", "-wn0", "-oout", "bash", "-c"),
        f"PYTHONPATH={PACKAGE} exec python3 keeps.py",
    )
    step = alice.step()
    until("it to count", lambda: "3" in alice.read("out").split())
    if lives == 2:
        done = alice.pycr("vacate", step, "--image-dir", ".")
        assert done.returncode == 0, done.stderr
        process.communicate(timeout=20)
        until("the step to go", lambda: not alice.steps())
        (alice.place / "out").unlink()
        alice.popen("pycr", "restart", "--image-dir", ".", step, "-wn0", "-oout")
        step = alice.step()
        until("it to count", lambda: len(alice.read("out").split()) > 3)
    (alice.place / "hold").touch()
    done = alice.pycr("create", step, "--image-dir", ".")
    words = "is a watch on files (inotify), which CRIU cannot dump"
    assert_fails(done, 9, f"step {step}: task 0 on n0: descriptor ", words)
    assert "CRIU's log" not in done.stderr
    until("it to be told to go on", lambda: "after" in alice.read("out").split())


def test_batch_script_that_holds(alice: Login) -> None:
    """A script is looked at when it stands still; it goes on."""
    alice.victim("held.py")
    (alice.place / "hold").touch()
    script = "./held.py sysv"
    (alice.place / "job.sh").write_text(f"#!/bin/bash\n{script}\n")
    job = alice.run("sbatch", "--parsable", "-wn0", "-o", "out", "job.sh").stdout.strip()
    until("it to hold", lambda: "held" in alice.read("out").split())
    done = alice.pycr("create", job, "--image-dir", ".")
    assert_fails(done, 9, f"job {job}: its batch script on n0: process ", "System V shared memory")
    seen = len(alice.read("out"))
    until("it to go on", lambda: len(alice.read("out")) > seen)
    assert not list(alice.place.glob("*.batch/0*"))
