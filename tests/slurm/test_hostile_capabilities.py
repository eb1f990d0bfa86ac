# SPDX-License-Identifier: GPL-2.0-or-later
"""No capability is ever in a process that runs code which a user can choose.

Every process of every node is looked at, over and over, while jobs are checkpointed, restarted,
requeued and fail to: one with a capability must be one of those that docs/security.md lists.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.login import Login, until
from tests.slurm import forge
from tests.slurm.hostile import in_cluster

SETS = re.compile(r"^Cap(?:Inh|Prm|Eff|Amb):\t([0-9a-f]+)$", re.M)
UID = re.compile(r"^Uid:\t(\d+)", re.M)
PARENT = re.compile(r"^PPid:\t(\d+)", re.M)
EFFECTIVE = re.compile(r"^CapEff:\t([0-9a-f]+)$", re.M)
CHECKPOINT_RESTORE, SETPCAP, SYS_ADMIN = 1 << 40, 1 << 8, 1 << 21
RESTORE = CHECKPOINT_RESTORE | SETPCAP
# What each may hold. A helper's criu and scontrol are not told from a pod's: they inherit what it
# has. Of slurmstepd that is what may be in effect, since it has all from Slurm's setuid to the
# plugin.
ALLOWED = {
    "pycr.node": CHECKPOINT_RESTORE,
    "pycr.pod": RESTORE,
    "criu": RESTORE,
    "scontrol": RESTORE,
    "scancel": RESTORE,
    "being restored": RESTORE,
    "slurmstepd": RESTORE | SYS_ADMIN,
}
PROGRAMS = (
    "/usr/sbin/criu",
    "/usr/sbin/slurmstepd",
    "/usr/bin/scontrol",
    "/usr/bin/scancel",
)
BOUND = ("pycr.node", "pycr.pod")  # no_new_privs, since this cluster's bounding set is not full


def name_of(text: str) -> str:
    return text.split("\n", 1)[0]


class Watch(threading.Thread):
    """Looks at every process of a user's, as often as it can, until stop()."""

    def __init__(self, user: Login) -> None:
        super().__init__(daemon=True)
        self.user, self.uid = user, str(user.place.stat().st_uid)
        self.seen: dict[str, int] = {}
        self.bad: set[str] = set()
        self.looks = 0
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.005):  # or the test itself would hardly get on
            self.looks += 1
            for name in os.listdir("/proc"):
                if name.isdigit():
                    with suppress(OSError):
                        self.look(Path("/proc", name))

    def look(self, process: Path) -> None:
        text = (process / "status").read_text()
        found = UID.search(text)
        if found is None or found[1] != self.uid or not in_cluster(self.user, process):
            return
        held = 0
        for value in SETS.findall(text):
            held |= int(value, 16)
        if not held:
            return
        exe = os.readlink(process / "exe")
        kind = self.kind(process, exe, text)
        # What was read at two moments may be of two programs, or criu has let it go by then: only
        # what still stands counts.
        again = (process / "status").read_text()
        if (name_of(text), SETS.findall(text)) != (name_of(again), SETS.findall(again)):
            return
        self.seen[kind or "bad"] = self.seen.get(kind or "bad", 0) + 1
        if kind == "slurmstepd":
            held = int(EFFECTIVE.findall(text)[0], 16)
        loose = kind in BOUND and "\nNoNewPrivs:\t1\n" not in text
        if held & ~ALLOWED.get(kind, 0) or not kind or loose:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            self.bad.add(f"{held:x} {exe} {words:.200}")

    def kind(self, process: Path, exe: str, text: str) -> str:
        """Name a process that may hold a capability, "" for any other."""
        words = (process / "cmdline").read_bytes().decode().split("\0")
        base = os.path.basename(exe)
        if exe.startswith("/usr/bin/python3") and words[1:4] in (
            ["-I", "-m", "pycr.node"],
            ["-I", "-m", "pycr.pod"],
        ):
            return words[3]
        if exe in PROGRAMS:
            return base
        at = process
        while found := PARENT.search(text):  # in criu's hands, not run yet
            at = Path("/proc", found[1])
            if found[1] == "0":
                return ""
            if os.readlink(at / "exe") == "/usr/sbin/criu":
                return "being restored"
            text = (at / "status").read_text()
        return ""

    def stop(self) -> None:
        self._done.set()
        self.join()


@pytest.fixture
def watch(alice: Login) -> Iterator[Watch]:
    made = Watch(alice)
    made.start()
    yield made
    made.stop()


def clean(watch: Watch, *kinds: str) -> None:
    """See that nothing else was seen with one, and that these were: else nothing was looked at."""
    watch.stop()
    assert not watch.bad
    assert set(kinds) <= set(watch.seen), (watch.seen, watch.looks)


def created(user: Login, step: str) -> bool:
    return user.pycr("create", step, "--image-dir", ".").returncode == 0


def test_steps(alice: Login, watch: Watch) -> None:
    script = "open('ready-$SLURM_PROCID','w').close()"
    program = f"bytearray(64 << 20); import time; {script}; time.sleep(300)"
    line = f'exec python3 -c "x = {program}"'
    job = alice.popen("srun", "-N2", "-n4", "bash", "-c", line)
    step = alice.step()
    until("it to run", lambda: len(list(alice.place.glob("ready-*"))) == 4)
    for _ in range(3):
        assert alice.pycr("create", step, "--image-dir", ".").returncode == 0
    assert alice.pycr("vacate", step, "--image-dir", ".").returncode == 0
    job.communicate(timeout=60)
    for _ in range(5):  # what is restored is in criu's hands for a moment only
        restart = alice.popen("pycr", "restart", "--image-dir", ".", step)
        again = alice.step()
        until("it to run", partial(created, alice, again))
        alice.run("scancel", again)
        restart.communicate(timeout=60)
        until("the step to go", lambda: not alice.steps())
        if "being restored" in watch.seen:
            break
    # One that fails for a damaged image, and one for what the image asks.
    generation = max((alice.place / step).glob("0*"))
    first = forge.manifest_of(generation).tasks[0].pids[0]
    pages = generation / "task.1/pages-1.img"
    pages.write_bytes(b"\1" * pages.stat().st_size)
    assert forge.restart(alice, step)[0] == 125
    forge.creds(generation / f"task.0/core-{first}.img", CAP_EFF=forge.CHECKPOINT_RESTORE)
    forge.seal(generation)
    assert forge.restart(alice, step)[0] == 125
    clean(watch, "pycr.node", "pycr.pod", "criu", "being restored")


def test_a_batch_job(alice: Login, watch: Watch) -> None:
    program = alice.victim("count.py")
    (alice.place / "job.sh").write_text(
        f"#!/bin/bash\ntouch ready\nsrun --cr -n2 {program} 1000\necho $? > end\n"
    )
    done = alice.run("sbatch", "--parsable", "-N1", "-n2", "--requeue", "job.sh")
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    until("its step", lambda: alice.steps())
    assert until("it", lambda: alice.pycr("create", job, "--image-dir", ".").returncode == 0)
    done = alice.pycr("requeue", job, "--image-dir", ".")
    assert done.returncode == 0, done.stderr
    until("its pod", lambda: "pycr.pod" in watch.seen, 120)
    clean(watch, "pycr.node", "pycr.pod", "criu")
