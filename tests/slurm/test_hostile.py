# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user may not get by writing their own image."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from pycr.engine import rpc
from pycr.manifest import Manifest
from tests.login import Login, until

# images/core.proto and creds.proto of CRIU: where a thread's credentials are, and what is in them
THREAD_CORE, CREDS = 5, 10
CAP_INH, CAP_PRM, CAP_EFF = 9, 10, 11
CHECKPOINT_RESTORE = [0, 1 << 8]  # the two 32-bit words of the set with bit 40


def encoded(fields: dict[int, list[rpc.Value]]) -> bytes:
    return b"".join(rpc.encode(number, each) for number, all_ in fields.items() for each in all_)


def claim_capability(core: Path) -> None:
    """Rewrite a core image: its thread then claims CAP_CHECKPOINT_RESTORE."""
    data = core.read_bytes()
    magic, (size,) = data[:8], struct.unpack("<I", data[8:12])
    entry = rpc.decode(data[12 : 12 + size])
    thread = rpc.decode(bytes(entry[THREAD_CORE][0]))
    creds = rpc.decode(bytes(thread[CREDS][0]))
    for kind in (CAP_INH, CAP_PRM, CAP_EFF):
        assert creds[kind] == [0, 0], "not where the capabilities are"
        creds[kind] = list(CHECKPOINT_RESTORE)
    thread[CREDS] = [encoded(creds)]
    entry[THREAD_CORE] = [encoded(thread)]
    new = encoded(entry)
    core.write_bytes(magic + struct.pack("<I", len(new)) + new + data[12 + size :])


def seal(generation: Path) -> None:
    """Write the manifest anew, as its owner can: sizes and checksums of what is there."""
    path = generation / "manifest.json"
    manifest = Manifest.loads(path.read_bytes(), str(path))
    for task in manifest.tasks:
        for name in task.files:
            data = (generation / f"task.{task.task_id}" / name).read_bytes()
            task.files[name] = (len(data), hashlib.sha256(data).hexdigest())
    path.write_bytes(manifest.dumps())


def test_image_that_claims_a_capability_is_not_run(alice: Login) -> None:
    script = 'until test -e go; do sleep 0.05; done; grep -E "^Cap(Prm|Eff)" /proc/self/status'
    job = alice.popen("srun", "-n1", "bash", "-c", script)
    step = alice.step()
    until("it to be there", lambda: alice.pycr("create", step, "--image-dir", ".").returncode == 0)
    assert alice.pycr("vacate", step, "--image-dir", ".").returncode == 0
    job.communicate(timeout=30)
    (alice.place / "go").touch()
    # As it is it runs, and has none.
    done = alice.pycr("restart", "--image-dir", ".", step)
    assert done.stdout.split() == ["CapPrm:", "0" * 16, "CapEff:", "0" * 16], done.stderr

    generation = max((alice.place / step).glob("0*"))
    manifest = Manifest.loads((generation / "manifest.json").read_bytes(), "")
    for pid in manifest.tasks[0].pids[:1]:
        claim_capability(generation / "task.0" / f"core-{pid}.img")
    seal(generation)
    done = alice.pycr("restart", "--image-dir", ".", step)
    assert done.returncode == 125
    assert done.stdout == ""
    assert "its image asks for capabilities: it was tampered with" in done.stderr
    until("the step to go", lambda: not alice.steps())
