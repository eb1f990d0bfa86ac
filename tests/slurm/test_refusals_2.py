# SPDX-License-Identifier: GPL-2.0-or-later
"""What the job's state, the machine, the disk and the image forbid: one line each, and its status.

What a task holds: test_refusals.py.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pycr.images import manifest
from pycr.images.manifest import Manifest
from tests.login import Login, until
from tests.slurm.test_callbacks import PACKAGE
from tests.slurm.test_failures import PLUGIN, assert_fails, give, plugstack

ASKED = """
import pathlib, time
import pycr
def before():
    pathlib.Path("asked").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
pycr.on_checkpoint(before=before)
print("up", flush=True)
while True:
    time.sleep(0.05)
"""


class Counting:
    """One task of alice's that counts for ever."""

    def __init__(self, alice: Login, *options: str) -> None:
        self.alice = alice
        command = (alice.victim("count.py"), "100000")
        self.process = alice.popen("srun", "-n1", "-wn0", "-oout", *options, *command)
        self.step = alice.step()
        self.runs()

    def runs(self) -> None:
        """Wait until it has counted on."""
        seen = len(self.alice.read("out"))
        until("it to count", lambda: len(self.alice.read("out")) > seen)

    def create(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.alice.pycr("create", self.step, "--image-dir", ".", *words)

    def vacated(self) -> Path:
        """Vacate it; return its generation."""
        done = self.alice.pycr("vacate", self.step, "--image-dir", ".")
        assert done.returncode == 0, done.stderr
        self.process.communicate(timeout=20)
        return self.alice.place / self.step / "0001"


def assert_not_restored(alice: Login, generation: str, *words: str) -> None:
    """The restart ends with 125 and says this in one line; nothing of it is left."""
    done = alice.pycr("restart", generation, "-wn0", timeout=40)
    assert done.returncode == 125, done
    said = [line for line in done.stderr.splitlines() if line.startswith("pycr: ")]
    assert len(said) == 1, done.stderr
    for word in ("couldn't restart: task 0 on n0: ", *words):
        assert word in said[0]
    until("the step to be gone", lambda: not alice.steps())


def test_suspended_job(cluster: Any, alice: Login) -> None:
    task = Counting(alice)
    job = task.step.partition(".")[0]
    run = cluster.node("n0").run
    run(["scontrol", "suspend", job], check=True)
    try:
        for verb in ("create", "vacate"):
            done = alice.pycr(verb, task.step, "--image-dir", ".")
            words = f"step {task.step}: the job is suspended: resume it first"
            assert_fails(done, 14, words)
        assert not (alice.place / task.step).exists()
    finally:
        run(["scontrol", "resume", job], check=True)
    task.runs()
    assert task.create().returncode == 0


def test_checkpoint_under_way(alice: Login) -> None:
    """Whichever directory the other one writes to."""
    (alice.place / "asked.py").write_text(ASKED)
    (alice.place / "elsewhere").mkdir()
    give(alice.place / "elsewhere", alice)
    command = f"PYTHONPATH={PACKAGE} exec python3 asked.py"
    alice.popen("srun", "-n1", "-oout", "bash", "-c", command)
    step = alice.step()
    until("it to be up", lambda: "up" in alice.read("out"))
    first = alice.popen("pycr", "create", step, "--image-dir", ".")
    until("it to be asked", (alice.place / "asked").exists)
    words = f"step {step}: node n0: a checkpoint of it is under way already: wait for it"
    for verb, directory in (("create", "."), ("vacate", "elsewhere")):
        assert_fails(alice.pycr(verb, step, "--image-dir", directory), 13, words)
    assert not list((alice.place / "elsewhere").iterdir())
    (alice.place / "go").touch()
    _, said = first.communicate(timeout=30)
    assert first.returncode == 0, said
    done = alice.pycr("create", step, "--image-dir", "elsewhere")
    assert done.returncode == 0, done.stderr


def test_directory_being_written(alice: Login) -> None:
    """By something that is no checkpoint of this step: an rm, or a writer on another cluster."""
    task = Counting(alice)
    place = alice.place / task.step
    place.mkdir(mode=0o700)
    (place / ".lock").touch(mode=0o600)
    give(place, alice)
    give(place / ".lock", alice)
    with (place / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_fails(task.create(), 13, f"{task.step}: a checkpoint of it is under way already")
    task.runs()
    assert task.create().returncode == 0


def test_user_that_the_host_does_not_know(cluster: Any, alice: Login) -> None:
    task = Counting(alice)
    them = ["setpriv", "--reuid=4242", "--regid=4242", "--clear-groups", "--"]
    words = "no such user: uid 4242 is not known on this host (n0)"
    run = cluster.node("n0").run
    for command in (["ls"], ["show", "1.0"], ["restart", "1.0"], ["rm", "1.0"]):
        assert_fails(run([*them, "pycr", *command]), 15, words)
    done = run([*them, "pycr", "doctor"])
    assert done.returncode in (7, 15), done
    assert words in done.stdout + done.stderr
    assert "fault of pycr's own" not in done.stderr
    assert "Traceback" not in done.stderr
    done = run([*them, "pycr", "create", task.step, "--image-dir", "/tmp"])
    assert_fails(done, 4, f"step {task.step}: it is alice's, not yours")


@contextmanager
def small(cluster: Any, options: str) -> Iterator[str]:
    """A small file system of alice's on n0; yields its path there."""
    run, path = cluster.node("n0").run, "/mnt/small"
    mount = f"mkdir -p {path} && mount -t tmpfs -o {options},uid=1001,mode=700 tmpfs {path}"
    run(["sh", "-c", mount], check=True)
    try:
        yield path
    finally:
        run(["umount", "-l", path], check=True)


def test_disk_too_small(cluster: Any, alice: Login) -> None:
    """Known beforehand: nothing is frozen, nothing begun."""
    alice.popen("srun", "-n1", "-wn0", alice.victim("memory.py"), "40", "ready", "go")
    step = alice.step()
    until("its memory", (alice.place / "ready.0").exists)
    with small(cluster, "size=8m") as path:
        for verb in ("create", "vacate"):
            done = alice.pycr(verb, step, "--image-dir", path)
            words = f"step {step}: image directory {path}: the checkpoint needs "
            assert_fails(done, 8, words, " MiB or more, and 8.0 MiB are free: remove old ones")
            needed = float(done.stderr.partition(words)[2].split()[0])
            assert 40 < needed < 60
        assert alice.run("ls", "-A", path).stdout == ""
    # What was said to be needed is what it takes, but for small change.
    (made,) = alice.pycr_json("create", step, "--image-dir", ".")
    assert needed - 0.1 < made["size"] / 2**20 < needed + 1
    alice.pycr("rm", "--image-dir", ".", step)


def test_disk_too_small_for_all_steps(cluster: Any, alice: Login) -> None:
    """Of a job: each would fit, and not both."""
    alice.run("salloc", "-n2", "-wn0", "--no-shell")
    job = str(alice.jobs()[0])
    victim = alice.victim("memory.py")
    for name in ("a", "b"):
        alice.popen("srun", f"--jobid={job}", "--overlap", "-n1", victim, "20", name, "go")
    until("their memory", lambda: all((alice.place / f"{name}.0").exists() for name in "ab"))
    with small(cluster, "size=40m") as path:
        done = alice.pycr("create", job, "--image-dir", path)
        assert_fails(done, 8, f"image directory {path}: the checkpoint needs ", " are free")
        assert alice.run("ls", "-A", path).stdout == ""
        done = alice.pycr("create", f"{job}.0", "--image-dir", path)
        assert done.returncode == 0, done.stderr


def test_disk_that_fills(cluster: Any, alice: Login) -> None:
    """Not known beforehand: a tmpfs that can take so many files, from none to all but the last.

    The job runs on, and nothing is left.
    """
    task = Counting(alice)
    assert task.create().returncode == 0
    needed = len(list((alice.place / task.step).rglob("*"))) + 2  # itself, and what it lies in
    for files in (1, 2, 4, 8, needed - 1):
        with small(cluster, f"size=100m,nr_inodes={files}") as path:
            for verb in ("create", "vacate"):
                done = alice.pycr(verb, task.step, "--image-dir", path)
                assert_fails(done, 8, path, "No space left on device (", " MiB are free", "pycr rm")
                assert "CRIU" not in done.stderr
                assert alice.run("ls", "-A", path).stdout == "", f"with {files} files"
                task.runs()
    with small(cluster, f"size=100m,nr_inodes={needed}") as path:
        done = alice.pycr("create", task.step, "--image-dir", path)
        assert done.returncode == 0, done.stderr


def old_criu(place: Path) -> Path:
    """Return Debian 12's CRIU, 3.17.1; skip where this machine is not Debian 12."""
    release = platform.freedesktop_os_release()
    if (release.get("ID"), release.get("VERSION_ID")) != ("debian", "12"):
        pytest.skip("expected: only Debian 12 has a CRIU that is too old")
    subprocess.run(["apt-get", "-q", "download", "criu"], cwd=place, check=True)
    (package,) = place.glob("criu_3*.deb")
    subprocess.run(["dpkg", "-x", str(package), str(place / "criu")], check=True)
    return place / "criu/usr/sbin/criu"


def test_criu_too_old_for_the_kernel(cluster: Any, alice: Login, tmp_path: Path) -> None:
    """The real one: nothing is frozen; and a restart says it too."""
    task = Counting(alice)
    shutil.copy(old_criu(tmp_path), cluster.shared / "criu-old")
    run = cluster.node("n0").run
    run(["install", "-m", "755", "/shared/criu-old", "/usr/local/sbin/criu-old"], check=True)
    (cluster.shared / "criu-old").unlink()
    with plugstack(cluster, "n0", f"{PLUGIN} criu=/usr/local/sbin/criu-old"):
        done = task.create()
        words = "its CRIU is too old: /usr/local/sbin/criu-old is version 3.17.1: install 3.18 or"
        assert_fails(done, 7, f"step {task.step}: node n0: ", words)
        assert not (alice.place / task.step).exists()
        task.runs()
        done = alice.pycr("doctor")
        assert done.returncode == 7
        assert "3.18 or later: the first that runs unprivileged" in done.stdout
    generation = task.vacated()
    with plugstack(cluster, "n0", f"{PLUGIN} criu=/usr/local/sbin/criu-old"):
        assert_not_restored(alice, f"./{generation.parent.name}", "CRIU is too old here: install")
    run(["rm", "/usr/local/sbin/criu-old"], check=True)


@contextmanager
def slurmd(cluster: Any, node: str, *lacking: str) -> Iterator[None]:
    """Have a node's slurmd run without capabilities for a while."""
    run = cluster.node(node).run

    def start(*wrapper: str) -> None:
        run(["pkill", "-x", "slurmd"])
        until("slurmd to end", lambda: run(["pgrep", "-x", "slurmd"]).returncode)
        command = ["setsid", "-f", *wrapper, "/usr/sbin/slurmd"]
        run(["sh", "-c", '"$@" > /dev/null 2>&1', "sh", *command], check=True)
        listens = ["bash", "-c", ": < /dev/tcp/localhost/6818"]  # until then sinfo may not know
        until("slurmd to listen", lambda: run(listens).returncode == 0)
        until(
            f"{node} to be back",
            lambda: (
                run(["sinfo", "-h", "-n", node, "-p", "debug", "-o", "%T"]).stdout.strip() == "idle"
            ),
        )

    drop = ",".join(f"-{name}" for name in lacking)
    start("setpriv", f"--bounding-set={drop}")
    try:
        yield
    finally:
        start()


def test_capability_that_slurmd_has_not(cluster: Any, alice: Login) -> None:
    generation = Counting(alice).vacated()
    name = f"./{generation.parent.name}"
    with slurmd(cluster, "n3", "checkpoint_restore"):
        alice.popen("srun", "-n1", "-wn3", "-oout", "./count.py", "100000")
        step = alice.step()
        words = "couldn't have CAP_CHECKPOINT_RESTORE: slurmd has it not: give it back"
        done = alice.pycr("create", step, "--image-dir", ".")
        assert_fails(done, 7, f"step {step}: node n3: ", words, "(CapabilityBoundingSet=")
        alice.cancel_all()
        done = alice.pycr("restart", name, "-wn3")
        assert done.returncode == 125, done
        assert words in done.stderr
        alice.cancel_all()
    with slurmd(cluster, "n3", "sys_admin"):
        done = alice.pycr("restart", name, "-wn3")
        assert done.returncode == 125, done
        assert "couldn't have CAP_SYS_ADMIN: slurmd has it not" in done.stderr
        alice.cancel_all()


def test_image_of_another_machine(alice: Login) -> None:
    """Told before CRIU is started, which would end in a fault of some kind."""
    generation = Counting(alice).vacated()
    path = generation / "manifest.json"
    text = path.read_bytes()
    true = Manifest.loads(text, "")
    features = true.hosts["n0"]["features"]
    assert len(features.split()) > 5
    here = os.uname().machine
    for facts, words in (
        ({"machine": "riscv64"}, [f"of architecture riscv64, and this machine is {here}"]),
        ({"features": f"{features} avx99", "cpu": "Some CPU"}, ["with avx99 (Some CPU), which"]),
        ({"features": "g01 g02 g03 g04 g05 g06 g07"}, ["with g01, g02, g03, g04, g05, g06 ..."]),
    ):
        claimed = true._replace(hosts={"n0": {**true.hosts["n0"], **facts}})
        path.write_bytes(claimed.dumps())
        assert_not_restored(alice, f"./{generation.parent.name}", *words)
        assert not list(generation.parent.glob("restore-*.log")), "CRIU was started"
    # One that says nothing of features is of an older pycr; another cluster's node names mean none.
    for hosts in ({"n0": {"machine": here}}, {}):
        path.write_bytes(true._replace(hosts=hosts).dumps())
        done = alice.popen("pycr", "restart", f"./{generation.parent.name}", "-oagain")
        until("it to count", lambda: len(alice.read("again").split()) > 4)
        alice.cancel_all()
        done.wait()
        (alice.place / "again").unlink()


@pytest.fixture
def pair(alice: Login) -> Path:
    """A whole generation of two tasks on one node."""
    job = alice.popen("srun", "-n2", "-wn0", "-oout", alice.victim("count.py"), "100000")
    step = alice.step()
    until("both to count", lambda: {"0 3", "1 3"} <= set(alice.read("out").splitlines()))
    done = alice.pycr("vacate", step, "--image-dir", ".")
    assert done.returncode == 0, done.stderr
    job.communicate(timeout=20)
    return alice.place / step / "0001"


def test_tasks_that_changed_places(alice: Login, pair: Path) -> None:
    (pair / "task.0").rename(pair / "other")
    (pair / "task.1").rename(pair / "task.0")
    (pair / "other").rename(pair / "task.1")
    done = alice.pycr("restart", f"./{pair.parent.name}")
    assert_fails(done, 10, f"{pair.parent.name}/0001/task.0/")


def test_files_that_changed_names(alice: Login, pair: Path) -> None:
    """Two images of one kind and size, each by the other's name."""
    images = pair / "task.0"
    pages, core = images / "pages-1.img", next(images.glob("core-*.img"))
    core.rename(images / "other")
    pages.rename(core)
    (images / "other").rename(pages)
    done = alice.pycr("restart", f"./{pair.parent.name}")
    assert_fails(done, 10, ".img: changed: ", "bytes, the manifest says")


@pytest.mark.parametrize("name", ["7.7", "anything"])
def test_generation_that_was_moved_or_copied_restarts(alice: Login, pair: Path, name: str) -> None:
    """It is a directory: where it lies and what it is called there is its owner's affair."""
    alice.run("mkdir", "-m", "700", "-p", f"away/{name}")
    alice.run("cp", "-a", f"{pair.parent.name}/0001", f"away/{name}/0009")
    alice.run("rm", "-r", pair.parent.name)
    again = alice.popen("pycr", "restart", f"away/{name}/0009", "-oagain")
    until("both to count", lambda: {"0", "1"} <= {each[0] for each in alice.read("again").split()})
    assert not {"0 0", "1 0"} & set(alice.read("again").splitlines())
    alice.cancel_all()
    again.wait()


def test_newer_format(alice: Login, pair: Path) -> None:
    path = pair / "manifest.json"
    text = path.read_text().partition("\n")[2].rpartition("\n}\n")[0]
    new = text.replace(f'"format": {manifest.FORMAT}', f'"format": {manifest.FORMAT + 1}')
    assert new != text
    path.write_bytes(manifest.seal(new.encode()))
    words = f"format {manifest.FORMAT + 1} is not the {manifest.FORMAT} that this pycr reads"
    assert_fails(alice.pycr("restart", f"./{pair.parent.name}"), 10, words, "with the pycr that")


def test_heterogeneous_job(alice: Login) -> None:
    words = ["-n1", "--wrap", "srun sleep 100", ":", "-n1"]
    job = alice.run("sbatch", "--parsable", "-o", "log", *words).stdout.strip()
    until("its step", lambda: job in alice.run("squeue", "-h", "-s", "-o", "%i").stdout)
    for name in (job, f"{job}.batch"):
        done = alice.pycr("create", name, "--image-dir", ".")
        assert_fails(done, 7, f"job {job}: heterogeneous jobs cannot be checkpointed yet")
    alice.cancel_all()
    alice.popen("srun", "-n1", "sleep", "100", ":", "-n1", "sleep", "100")
    until("its step", lambda: alice.run("squeue", "-h", "-s", "-o", "%i").stdout.split())
    first = min(alice.jobs())
    why = "steps of heterogeneous jobs cannot be checkpointed yet"
    for name in (f"job {first}", f"step {first}.0"):
        done = alice.pycr("create", name.split()[1], "--image-dir", ".")
        assert_fails(done, 7, f"{name}: {why}")
