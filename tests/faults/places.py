# SPDX-License-Identifier: GPL-2.0-or-later
"""Image directories that break: full, read-only, removed, hung. Each is a mount of its own on n0,
where the victim and the coordinator are, too."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.cluster.slurmconf import USERS
from tests.faults.scene import Scene

NODE = "n0"
PLACE = "/srv/faults"
SIZE = 400  # MiB: room for a few generations of any victim
OWNER = USERS["alice"]


def _use(scene: Scene) -> None:
    """Have the images there."""
    images = f"{PLACE}/images"
    scene.root(NODE, "install", "-d", "-o", "alice", "-m", "700", images)
    scene.images = scene.victim.images = images
    scene.victim.only_n0 = True


def small(scene: Scene) -> None:
    """A tmpfs."""
    scene.root(NODE, "mkdir", "-p", PLACE)
    scene.root(NODE, "mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "faults", PLACE)
    scene.finally_(lambda: scene.root(NODE, "umount", PLACE))
    _use(scene)


def disk(scene: Scene) -> None:
    """An ext4 file system in a file."""
    folder = Path(tempfile.mkdtemp(prefix="pycr-faults-", dir="/var/tmp"))
    scene.finally_(lambda: shutil.rmtree(folder))
    file = folder / "disk"
    with file.open("wb") as made:
        made.truncate(SIZE << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", file], check=True)
    loop = subprocess.check_output(["losetup", "--find", "--show", file], text=True).strip()
    scene.finally_(lambda: subprocess.run(["losetup", "-d", loop], check=False))
    major, minor = os.major(os.stat(loop).st_rdev), os.minor(os.stat(loop).st_rdev)
    device = "/dev/faults"
    scene.root(NODE, "mkdir", "-p", PLACE)
    scene.root(NODE, "mknod", device, "b", str(major), str(minor))
    scene.finally_(lambda: scene.root(NODE, "rm", device))
    scene.root(NODE, "mount", "-t", "ext4", device, PLACE)
    scene.finally_(lambda: scene.root(NODE, "umount", PLACE))
    _use(scene)


def fill(scene: Scene) -> str:
    """Leave no room, but for a little now and then."""
    ballast = scene.host(NODE, f"{PLACE}/ballast")
    room = scene.dice.choice((0, 4096, 65536, 1 << 20))
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"\0" * (1 << 20)):
            pass
    if room:
        with suppress(OSError):
            os.truncate(ballast, max(0, ballast.stat().st_size - room))
    scene.later(ballast.unlink)
    return f"the image directory is full but for {room} bytes"


def read_only(scene: Scene) -> str:
    """Remount it; the kernel refuses while a file is open for writing, so until it does not."""
    scene.later(lambda: scene.root(NODE, "mount", "-o", "remount,rw", PLACE))
    turns = 0
    while True:
        turns += 1
        done = scene.cluster.node(NODE).run(["mount", "-o", "remount,ro", PLACE])
        if done.returncode == 0:
            return f"the image directory is read-only (attempt {turns})"
        if not scene.under_way():
            return ""


def remove(scene: Scene) -> str:
    """Remove all that is in the image directory, and itself."""
    images = scene.host(NODE, scene.images)
    shutil.rmtree(images, ignore_errors=True)
    scene.later(lambda: scene.root(NODE, "install", "-d", "-o", "alice", "-m", "700", scene.images))
    return "the image directory is removed"


def freeze(scene: Scene) -> str:
    """Hang its server: whoever writes waits, and cannot be killed, for twice --max-wait."""
    scene.root(NODE, "fsfreeze", "-f", PLACE)
    thawed = False

    def thaw() -> None:
        nonlocal thawed
        if not thawed:
            thawed = True
            scene.root(NODE, "fsfreeze", "-u", PLACE)

    scene.later(thaw)
    began = time.monotonic()
    while scene.under_way() and time.monotonic() - began < 2 * scene.max_wait:
        scene.wait(0.1)
    scene.note(f"hung for {time.monotonic() - began:.1f} s")
    thaw()
    return "the image directory's file system hung"
