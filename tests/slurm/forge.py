# SPDX-License-Identifier: GPL-2.0-or-later
"""Rewriting a checkpoint as its owner can: CRIU's images, and a manifest that fits them.

CRIU's image files are two words of magic, then records: a length and a protocol buffer message;
the field numbers below are those of its images/*.proto. Owns nothing of what pycr does with them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

from pycr.engine import rpc
from pycr.images.manifest import Manifest
from tests.login import Login, until

Message = dict[int, list[rpc.Value]]
THREAD_CORE, CREDS = 5, 10  # core_entry.thread_core, thread_core_entry.creds
UID, GID, EUID, EGID, SUID, SGID, FSUID, FSGID = range(1, 9)  # creds_entry, and below
CAP_INH, CAP_PRM, CAP_EFF, CAP_BND, SECBITS, GROUPS, NO_NEW_PRIVS = 9, 10, 11, 12, 13, 14, 18
LSM_PROFILE, LSM_SOCKCREATE = 15, 16
SECCOMP_MODE, SECCOMP_FILTER = 11, 12  # thread_core_entry
CHECKPOINT_RESTORE: list[rpc.Value] = [0, 1 << 8]  # the two 32-bit words of the set with bit 40


def edit(path: Path, change: Callable[[Message], None]) -> None:
    """Change every message of an image file."""
    data = path.read_bytes()
    out, at = data[:8], 8
    while at + 4 <= len(data):
        (size,) = struct.unpack("<I", data[at : at + 4])
        message = rpc.decode(data[at + 4 : at + 4 + size])
        change(message)
        new = rpc.message(message)
        out += struct.pack("<I", len(new)) + new
        at += 4 + size
    path.write_bytes(out)


def inventory(images: Path, number: int, value: rpc.Value) -> None:
    """Add a field to inventory.img's one message, behind one word of magic: the last one counts."""
    path = images / "inventory.img"
    data = path.read_bytes()
    (size,) = struct.unpack("<I", data[4:8])
    assert len(data) == 8 + size
    message = data[8:] + rpc.encode(number, value)
    path.write_bytes(data[:4] + struct.pack("<I", len(message)) + message)


def inner(message: Message, number: int, change: Callable[[Message], None]) -> None:
    """Change the message that is a message's field, where it has it."""
    for at, value in enumerate(message.get(number, [])):
        assert isinstance(value, bytes)
        below = rpc.decode(value)
        change(below)
        message[number][at] = rpc.message(below)


def creds(core: Path, **claims: list[rpc.Value]) -> None:
    """Rewrite a thread's credentials: the names are the constants above."""
    changed = 0

    def change(fields: Message) -> None:
        nonlocal changed
        for name, values in claims.items():
            changed += fields.get(globals()[name]) != values
            fields[globals()[name]] = list(values)

    edit(core, lambda entry: inner(entry, THREAD_CORE, lambda it: inner(it, CREDS, change)))
    assert changed, "nothing was forged"


def seal(generation: Path) -> None:
    """Write the manifest anew: sizes and checksums of what is there."""
    path = generation / "manifest.json"
    manifest = Manifest.loads(path.read_bytes(), str(path))
    for task in manifest.tasks:
        task.files.clear()
        for file in sorted((generation / f"task.{task.task_id}").iterdir()):
            data = file.read_bytes()
            task.files[file.name] = (len(data), hashlib.sha256(data).hexdigest())
    path.write_bytes(manifest.dumps())


def manifest_of(generation: Path) -> Manifest:
    return Manifest.loads((generation / "manifest.json").read_bytes(), "")


def vacated(user: Login, *command: str, ready: str = "") -> tuple[str, Path]:
    """Run a command as a step of one task and vacate it; return the step and its generation.

    ready: a file of the user's directory that is there when the command may be dumped.
    """
    job = user.popen("srun", "-n1", *command)
    step = user.step()
    if ready:
        until("it to be ready", lambda: (user.place / ready).exists())
    done = user.pycr("vacate", step, "--image-dir", ".")
    assert done.returncode == 0, done.stderr
    job.communicate(timeout=30)
    until("the step to go", lambda: not user.steps())
    return step, max((user.place / step).glob("0*"))


def restart(user: Login, step: str, timeout: float = 60) -> tuple[int, str, str]:
    """Restart it; return the status, what it said, and what pycr or CRIU did."""
    done = user.pycr("restart", "--image-dir", ".", step, timeout=timeout)
    return done.returncode, done.stdout, done.stderr
