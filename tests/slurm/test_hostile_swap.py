# SPDX-License-Identifier: GPL-2.0-or-later
"""Links and FIFOs swapped in by the user's own processes while images are written and read.

What they lead to is neither written, truncated nor deleted, and nothing hangs. The swapping runs on
the node, as the user: inotify would be kinder, a busy loop hits more moments.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.login import Login, until
from tests.slurm import forge
from tests.slurm.test_failures_batch import Batch

# Swaps whatever is below the step's directory for a link, a hard link or a FIFO, and back.
SWAP = """
import os, sys, time
top, victim, kinds = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
swaps = [0]
def swap(path, target, directory):
    aside = path + ".aside"
    for kind in kinds:
        try:
            os.rename(path, aside)
        except OSError:
            return
        try:
            if kind == "link":
                os.symlink(target, path)
            elif kind == "fifo":
                os.mkfifo(path)
            elif kind == "hard" and not directory:
                os.link(target, path)
            time.sleep(0.002)
        except OSError:
            pass
        try:
            os.unlink(path)
        except OSError:
            pass
        try:
            os.rename(aside, path)
            swaps[0] += 1
        except OSError:
            pass
def every(place, target):
    try:
        found = list(os.scandir(place))
    except OSError:
        return
    for each in found:
        if each.name.endswith(".aside"):
            continue
        directory = each.is_dir(follow_symlinks=False)
        to = target if directory else victim + "/kept"
        swap(each.path, to, directory)
        if directory:
            every(each.path, target)
print("up", flush=True)
while not os.path.exists("stop"):
    every(top, victim)
print(swaps[0], flush=True)
"""
WAIT = 20  # --max-wait, seconds
SLACK = 30.0


def canaries(alice: Login, bob: Login) -> dict[Path, tuple[bytes, int]]:
    """Lay what must stay as it is: a directory of alice's that looks like an image, a file of bob's
    that all may read; return what is in each file."""
    victim = alice.place / "victim"
    for place in (victim, victim / "task.0", victim / "late", victim / "1.0"):
        place.mkdir(mode=0o700)
        for name in ("kept", "inventory.img", "pages-1.img", "manifest.json", "slurm_script"):
            (place / name).write_text(f"{place.name}'s {name}")
    bob.place.chmod(0o755)
    (bob.place / "open").write_text("bob's")
    (victim / "bobs").symlink_to(f"{bob.dir}/open")
    for path in (victim, *victim.rglob("*")):
        os.chown(path, 1001, 1001, follow_symlinks=False)
    return state_of(alice, bob)


def state_of(alice: Login, bob: Login) -> dict[Path, tuple[bytes, int]]:
    """Return every file there is now: what is in it, and how many names it has."""
    files = [path for path in (alice.place / "victim").rglob("*") if path.is_file()]
    files = [path for path in files if not path.is_symlink()]
    return {path: (path.read_bytes(), path.stat().st_uid) for path in [*files, bob.place / "open"]}


@contextmanager
def swapping(user: Login, top: str, kinds: str) -> Iterator[None]:
    """Swap below a directory; see at the end that it did."""
    (user.place / "stop").unlink(missing_ok=True)
    process = user.popen("python3", "-c", SWAP, top, f"{user.dir}/victim", kinds)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    try:
        yield
    finally:
        (user.place / "stop").touch()
        out, err = process.communicate(timeout=30)
    assert int(out) > 10, err


def put_back(top: Path) -> None:
    """Undo a swap that was cut short."""
    for aside in sorted(top.rglob("*.aside"), reverse=True):
        if not os.path.lexists(aside.with_suffix("")):
            aside.rename(aside.with_suffix(""))


def timely(user: Login, *words: str) -> subprocess.CompletedProcess[str]:
    """Run pycr, which must end in time, with a line about what was wrong if it says anything."""
    began = time.monotonic()
    done = user.pycr(*words, timeout=WAIT + SLACK + 30)
    assert time.monotonic() - began < WAIT + SLACK
    assert "Traceback" not in done.stderr, done.stderr
    assert "fault of pycr's own" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("kinds", ["link", "fifo", "hard", "link,fifo,hard"])
def test_while_a_step_is_dumped(alice: Login, bob: Login, kinds: str) -> None:
    script = "import time; x = bytearray(20 << 20); open('up', 'w'); time.sleep(300)"
    alice.popen("srun", "-n1", "python3", "-c", script)
    step = alice.step()
    until("it to run", lambda: (alice.place / "up").exists())
    before = canaries(alice, bob)
    (alice.place / step).mkdir(mode=0o700)
    os.chown(alice.place / step, 1001, 1001)
    failed = 0
    with swapping(alice, f"{alice.dir}/{step}", kinds):
        for _ in range(4):
            done = timely(alice, "create", step, "--image-dir", ".", "--max-wait", str(WAIT))
            failed += done.returncode != 0
    after = state_of(alice, bob)
    assert set(after) == set(before)
    if "hard" in kinds:
        # CRIU opens some images twice, by name: a hard link that their owner puts in place of one
        # leads it to a file of the owner's, and to no other's.
        after[alice.place / "victim" / "kept"] = before[alice.place / "victim" / "kept"]
    assert after == before
    until("its helpers to end", lambda: alice.steps() == [step])
    # The task has taken no harm, and neither has the next checkpoint.
    put_back(alice.place / step)
    alice.run("rm", "-rf", step)
    done = alice.pycr("create", step, "--image-dir", ".")
    assert done.returncode == 0, done.stderr


def test_while_a_script_is_dumped(alice: Login, bob: Login) -> None:
    """The files that are a script's own: its text, its output, what is late, and its steps'."""
    batch = Batch(alice, "srun --cr -n1 sleep 300 & echo up; wait", "--requeue")
    until("its step", alice.steps)
    step = alice.steps()[0]
    before = canaries(alice, bob)
    top = alice.place / f"{batch.job}.batch"
    top.mkdir(mode=0o700)
    os.chown(top, 1001, 1001)
    with swapping(alice, f"{alice.dir}/{top.name}", "link,fifo"):
        for _ in range(4):
            timely(alice, "create", batch.job, "--image-dir", ".", "--max-wait", str(WAIT))
    assert state_of(alice, bob) == before
    until("its helpers to end", lambda: alice.steps() == [step])
    put_back(top)
    alice.run("rm", "-rf", top.name)
    done = batch.pycr("create")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kinds", ["link", "fifo", "link,hard"])
def test_while_criu_reads(alice: Login, bob: Login, kinds: str) -> None:
    """A restart either fails in time, with a line, or runs what was checkpointed."""
    step, generation = forge.vacated(alice, "python3", alice.victim("who.py"), ready="ready")
    before = canaries(alice, bob)
    (alice.place / "go").touch()
    kept = {path.name: path.read_bytes() for path in (generation / "task.0").iterdir()}
    for _ in range(4):
        with swapping(alice, f"{alice.dir}/{step}/{generation.name}", kinds):
            began = time.monotonic()
            status, out, err = forge.restart(alice, step, timeout=90)
            assert time.monotonic() - began < WAIT + SLACK
        assert status in (0, 10, 125), err
        assert status or f"Uid: {' '.join(['1001'] * 4)}" in out, err
        assert status == 0 or not out
        put_back(alice.place / step)
        assert state_of(alice, bob) == before
        until("the step to go", lambda: not alice.steps())
    assert {path.name: path.read_bytes() for path in (generation / "task.0").iterdir()} == kept
    status, out, err = forge.restart(alice, step)
    assert status == 0, err
