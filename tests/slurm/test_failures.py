# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user meets when a checkpoint cannot be made: one line, its exit status, the job runs on.

The statuses are those of pycr/errors.py. When a restart fails: test_failures_restart.py.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.login import Login, until

CONF = "/etc/slurm/plugstack.conf"
PLUGIN = "optional /opt/pycr/lib/slurm/spank_cr.so"
PTY = "import pty, sys; pty.spawn(sys.argv[1:])"
LISTEN = """
import socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("up", flush=True)
peer = server.accept()
sys.stdin.read()
"""
MakeLogin = Callable[..., Login]


def assert_fails(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """It said one line, with these words in it, and ended with this status."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("pycr: ")
    for word in words:
        assert word in done.stderr


def give(path: Path, login: Login) -> None:
    """Make a path the user's."""
    user_id = login.place.stat().st_uid
    os.chown(path, user_id, user_id)


class Running:
    """A step of alice's that counts for ever, two tasks on two nodes."""

    def __init__(self, alice: Login, *command: str) -> None:
        self.alice = alice
        self.images = alice.place / "images"
        self.images.mkdir()
        give(self.images, alice)
        words = command or (alice.victim("count.py"), "100000")
        self.process = alice.popen("srun", "-N2", "-n2", "-wn0,n1", "-oout", *words)
        self.step = alice.step()
        until("both tasks to count", lambda: {"0 2", "1 2"} <= self.lines())

    def lines(self) -> set[str]:
        return set(self.alice.read("out").splitlines())

    def create(self, *words: str, by: Login | None = None) -> subprocess.CompletedProcess[str]:
        return (by or self.alice).pycr("create", self.step, "--image-dir", "images", *words)

    def assert_untouched(self) -> None:
        """Every task runs on, nothing is left of the attempt."""
        ends = [max(int(line.split()[1]) for line in self.lines() if line[0] == t) for t in "01"]
        wanted = {f"{task} {end + 3}" for task, end in enumerate(ends)}
        until("both tasks to go on", lambda: wanted <= self.lines())
        until("pycr's steps to end", lambda: self.alice.steps() == [self.step])
        assert self.process.poll() is None
        left = {path.name for path in self.images.rglob("*")}
        # Where CRIU refused, its log stays, in the step's directory.
        kept = {self.step, ".lock", *(name for name in left if name.startswith("failed-"))}
        assert left == set() or left == kept


@pytest.fixture
def running(alice: Login) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def make(*command: str) -> Running:
        made.append(Running(alice, *command))
        return made[-1]

    yield make
    alice.cancel_all()
    for each in made:
        each.process.communicate(timeout=60)


@contextlib.contextmanager
def plugstack(cluster: Any, node: str, text: str) -> Iterator[None]:
    """Give one node another plugstack.conf for a while."""
    run = cluster.node(node).run
    old = run(["cat", CONF], check=True).stdout
    try:
        run(["tee", CONF], input=text + "\n", check=True)
        yield
    finally:
        run(["tee", CONF], input=old, check=True)


def test_no_such_job(alice: Login) -> None:
    for name in ("999999", "999999.0"):
        assert_fails(alice.pycr("create", name), 3, "job 999999", "Slurm knows no such job")


def test_no_such_step_or_already_ended(alice: Login, running: Callable[..., Running]) -> None:
    step = running()
    job = step.step.split(".")[0]
    done = alice.pycr("create", f"{job}.77")
    assert_fails(done, 5, f"step {job}.77", "no such step is running; it has ended or never was")
    step.assert_untouched()
    ended = alice.run("srun", "-n1", "sh", "-c", "echo $SLURM_JOB_ID").stdout.strip()
    until("it to end", lambda: int(ended) not in alice.jobs())
    for verb in ("create", "vacate"):
        assert_fails(alice.pycr(verb, ended), 5, f"job {ended}", "has ended (COMPLETED)")
        assert_fails(alice.pycr(verb, f"{ended}.0"), 5, f"step {ended}.0", "has ended")


def test_job_without_a_step(alice: Login) -> None:
    alice.run("salloc", "-n1", "--no-shell")
    job = alice.jobs()[0]
    assert_fails(alice.pycr("create", str(job)), 5, f"job {job}: no step of it is running")


def test_shell_of_salloc(alice: Login) -> None:
    alice.popen("salloc", "-K", "-n1", "sleep", "600")
    running = ["squeue", "-h", "-u", "alice", "-t", "R", "-o", "%A"]
    job = int(until("the allocation", lambda: alice.run(*running).stdout))
    words = "it is salloc's, whose shell at a terminal cannot be checkpointed: name a step"
    assert_fails(alice.pycr("create", str(job)), 7, words)
    words = f"job {job}: it runs no batch script: only such a job is requeued"
    assert_fails(alice.pycr("requeue", str(job)), 7, words)


def test_pending_job(alice: Login) -> None:
    job = alice.run("sbatch", "--parsable", "-H", "-n1", "--wrap", "true").stdout.strip()
    assert_fails(alice.pycr("create", job), 6, f"job {job}: the job has not started")


def test_not_yours(alice: Login, bob: Login, running: Callable[..., Running]) -> None:
    step = running()
    for verb in ("create", "vacate"):
        done = bob.pycr(verb, step.step, "--image-dir", ".")
        assert_fails(done, 4, f"step {step.step}: it is alice's, not yours")
    assert list(bob.place.iterdir()) == []
    step.assert_untouched()


def test_no_plugin_on_a_node(cluster: Any, running: Callable[..., Running]) -> None:
    step = running()
    with plugstack(cluster, "n1", f"# {PLUGIN}"):
        done = step.create()
    assert_fails(done, 7, f"step {step.step}: node n1", "spank_cr plugin enabled there")
    step.assert_untouched()


def test_no_criu_where_it_is_said_to_be(cluster: Any, running: Callable[..., Running]) -> None:
    step = running()
    with plugstack(cluster, "n1", f"{PLUGIN} criu=/nonexistent"):
        done = step.create()
    assert_fails(done, 7, f"step {step.step}", "n1", "/nonexistent: No such file")
    step.assert_untouched()


# What a helper has said reaches srun by another way than its end does, and may be the later.
LATE = """#!/bin/bash
exec /usr/bin/srun "$@" > >(sleep .5; exec cat)
"""


@pytest.mark.parametrize("late", [False, True])
def test_no_criu_on_a_node(cluster: Any, running: Callable[..., Running], late: bool) -> None:
    step, node = running(), cluster.node("n1")
    if late:
        place = step.alice.place / "late"
        place.mkdir()
        (place / "srun").write_text(LATE)
        (place / "srun").chmod(0o755)
    path = f"PATH={step.alice.dir}/late:/opt/pycr/bin:/usr/bin:/bin"
    node.run(["mv", "/usr/sbin/criu", "/usr/sbin/criu.away"], check=True)
    try:
        done = step.alice.run("env", path, "pycr", "create", step.step, "--image-dir", "images")
    finally:
        node.run(["mv", "/usr/sbin/criu.away", "/usr/sbin/criu"], check=True)
    assert_fails(done, 7, f"step {step.step}: node n1: no CRIU: /usr/sbin/criu", "install criu")
    step.assert_untouched()


def test_interpreter_that_root_does_not_own(cluster: Any, running: Callable[..., Running]) -> None:
    step, node = running(), cluster.node("n1")
    node.run(["cp", "/bin/true", "/usr/local/bin/theirs"], check=True)
    node.run(["chown", "bob", "/usr/local/bin/theirs"], check=True)
    with plugstack(cluster, "n1", f"{PLUGIN} python=/usr/local/bin/theirs"):
        done = step.create()
    assert_fails(done, 7, f"step {step.step}", "/usr/local/bin/theirs: does not belong to root")
    step.assert_untouched()


def test_no_plugin_where_it_is_asked_for(
    cluster: Any, login: MakeLogin, running: Callable[..., Running]
) -> None:
    step, elsewhere = running(), login("alice", "n3")
    with plugstack(cluster, "n3", f"# {PLUGIN}"):
        done = elsewhere.pycr("create", step.step, "--image-dir", str(step.alice.dir) + "/images")
    assert_fails(done, 7, "plugin is not enabled on this host (n3)", "plugstack.conf")
    step.assert_untouched()


def test_unknown_key_in_plugstack_conf(cluster: Any, login: MakeLogin) -> None:
    alice = login("alice", "n3")
    with plugstack(cluster, "n3", f"{PLUGIN} bogus=1"):
        plain = alice.run("srun", "-n1", "-wn3", "echo", "fine")
        wrapped = alice.run("srun", "--cr", "-n1", "-wn3", "true")
        job = alice.popen("srun", "-n1", "-wn0", alice.victim("count.py"), "100000", "-oout")
        made = alice.pycr("create", alice.step(), "--image-dir", ".")
        alice.cancel_all()
        job.communicate(timeout=60)
    assert (plain.returncode, plain.stdout, plain.stderr) == (0, "fine\n", "")
    assert wrapped.returncode == 1
    assert len(wrapped.stderr.splitlines()) == 1
    assert "checkpoint/restart is off here" in wrapped.stderr
    assert "unknown key: bogus=1" in wrapped.stderr
    assert_fails(made, 7, "unknown key: bogus=1")


def test_image_directories_that_will_not_do(
    alice: Login, bob: Login, cluster: Any, running: Callable[..., Running]
) -> None:
    step = running()
    (alice.place / "file").write_text("x")
    (alice.place / "closed").mkdir(mode=0o555)
    local = f"/tmp/{alice.place.name}"
    alice.run("mkdir", local)
    for name, words in (
        ("missing", ("image directory missing", "no such directory")),
        ("file", ("image directory file", "not a directory")),
        ("closed", ("image directory closed", "you cannot write to it")),
        (local, ("n1", f"{local}", "is not visible here", "every node of the job has")),
    ):
        for verb in ("create", "vacate"):
            assert_fails(alice.pycr(verb, step.step, "--image-dir", name), 8, *words)
    assert alice.run("ls", "-A", local).stdout == ""
    alice.run("rmdir", local)
    step.assert_untouched()
    assert (alice.place / "file").read_text() == "x"


def test_image_directory_of_the_environment(alice: Login, running: Callable[..., Running]) -> None:
    step = running()
    done = alice.pycr("create", step.step, env={"SLURM_CHECKPOINT_DIR": "/nowhere"})
    assert_fails(done, 8, "image directory /nowhere: no such directory")
    step.assert_untouched()


def test_unsafe_step_directory(alice: Login, bob: Login, running: Callable[..., Running]) -> None:
    step = running()
    target = alice.place / "target"
    target.mkdir()
    give(target, alice)
    theirs = step.images / step.step
    theirs.symlink_to(f"{alice.dir}/target")
    assert_fails(step.create(), 8, f"images/{step.step}", "Not a directory")
    assert theirs.is_symlink()
    assert list(target.iterdir()) == []
    theirs.unlink()
    for mode, owner, why in ((0o777, bob, "another user's"), (0o777, alice, "writable by others")):
        theirs.mkdir()
        theirs.chmod(mode)
        give(theirs, owner)
        assert_fails(step.create(), 4, f"images/{step.step}", why, "not safe")
        assert list(theirs.iterdir()) == []
        theirs.rmdir()
    step.assert_untouched()


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("inotify", "is a watch on files (inotify), which CRIU cannot dump"),
        ("shm", "has System V shared memory"),
        ("unix", "connected to a process outside the task"),
        ("undumpable", "PR_SET_DUMPABLE"),
        ("stray", "(sleep) of it is orphaned"),
    ],
)
def test_task_that_cannot_be_dumped(
    alice: Login, cluster: Any, running: Callable[..., Running], what: str, why: str
) -> None:
    listener = None
    path = f"/tmp/{alice.place.name[-20:]}"
    if what == "unix":
        listener = cluster.node("n1").popen(
            ["python3", "-c", LISTEN, path], user="alice", stdin=subprocess.PIPE
        )
        assert listener.stdout.readline() == "up\n"
    try:
        step = running(alice.victim("hold.py"), what, path)
        for verb in ("create", "vacate"):
            done = alice.pycr(verb, step.step, "--image-dir", "images")
            assert_fails(done, 9, f"step {step.step}: task 1 on n1: ", why)
        step.assert_untouched()
    finally:
        if listener is not None:
            listener.communicate(timeout=60)


def test_pty_step_is_refused_by_name(alice: Login, cluster: Any) -> None:
    process = alice.popen(
        "python3", "-c", PTY, "srun", "--pty", "-n1", "sleep", "100", stdin=subprocess.PIPE
    )
    step = alice.step()
    done = alice.pycr("create", step, "--image-dir", ".")
    assert_fails(done, 9, f"step {step}: task 0 on n0", "standard input is a terminal", "--pty")
    until("pycr's step to end", lambda: alice.steps() == [step])
    assert list(alice.place.iterdir()) == []
    alice.cancel_all()
    process.communicate(timeout=60)


@pytest.mark.parametrize(
    "words",
    [
        ["create"],
        ["create", "x.y"],
        ["create", "1.2.3"],
        ["create", "-1"],
        ["create", "99999999999"],
        ["create", "1", "--max-wait", "0"],
        ["create", "1", "--max-wait", "soon"],
        ["vacate", "1", "--independent"],
        ["frobnicate"],
        [],
        ["restart"],
        ["show"],
        ["rm"],
    ],
    ids=" ".join,
)
def test_bad_usage(alice: Login, words: list[str]) -> None:
    done = alice.pycr(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert words[-1:] == [] or done.stderr.splitlines()[-1].startswith("pycr")


def test_message_without_traceback_unless_asked(alice: Login) -> None:
    assert "Traceback" not in alice.pycr("create", "999999").stderr
    assert "Traceback" in alice.pycr("--debug", "create", "999999").stderr


def test_victims_are_whole(victims: Path) -> None:
    assert os.access(victims / "hold.py", os.X_OK)
