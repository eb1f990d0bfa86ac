# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user may not get by writing their own image.

Each test rewrites a good checkpoint as its owner can, checksums included, restarts it, and sees that
nothing of it ran. Where CRIU itself fails for want of a privilege, its words are what the user gets.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pycr.engine import rpc
from tests.login import Login, until
from tests.slurm import forge

CORE = re.compile(r"core-(\d+)\.img")
ROOT_FILE = "/etc/shadow"


@pytest.fixture
def made(alice: Login) -> tuple[Login, str, Path]:
    """A checkpoint of who.py, which may end as soon as it is restarted, and shows that it runs."""
    program = alice.victim("who.py")
    step, generation = forge.vacated(alice, "python3", program, ready="ready")
    (alice.place / "go").touch()
    return alice, step, generation / "task.0"


def cores(images: Path) -> list[Path]:
    """Return the images of the first process's main thread, its other thread, and its child."""
    pids = forge.manifest_of(images.parent).tasks[0].pids
    names = {int(found[1]): path for path in images.iterdir() if (found := CORE.match(path.name))}
    thread = next(tid for tid in sorted(names) if tid not in pids)
    return [names[pids[0]], names[thread], names[pids[1]]]


def refused(user: Login, step: str, images: Path, words: str) -> None:
    """Restart what was forged: it must not run, and its user is told why."""
    forge.seal(images.parent)
    status, out, err = forge.restart(user, step)
    assert status == 125, err
    assert out == "", "it ran"
    told = [line for line in err.splitlines() if line.startswith("pycr: ")]
    assert len(told) == 1, err
    assert re.search(words, told[0]), err
    until("the step to go", lambda: not user.steps())


def test_as_it_is_it_runs_and_has_nothing(made: tuple[Login, str, Path]) -> None:
    alice, step, images = made
    forge.seal(images.parent)
    status, out, err = forge.restart(alice, step)
    assert status == 0, err
    assert out.splitlines()[:2] == ["Uid: 1001 1001 1001 1001", "Gid: 1001 1001 1001 1001"]
    assert {line.split()[1] for line in out.splitlines() if line[:3] == "Cap"} == {"0" * 16}
    assert "file # SPDX" in out


CAPABILITY = dict.fromkeys(("CAP_INH", "CAP_PRM", "CAP_EFF"), forge.CHECKPOINT_RESTORE)
ROOT: list[rpc.Value] = [0]
CLAIMS: dict[str, tuple[dict[str, list[rpc.Value]], str]] = {
    "capability": (CAPABILITY, "capabilities"),
    "inheritable": ({"CAP_INH": forge.CHECKPOINT_RESTORE}, "capabilities"),
    "packed": ({"CAP_PRM": [b"\0\x80\x02"]}, "capabilities"),
    "every capability": (
        {name: [0xFFFFFFFF, 0x1FF] for name in ("CAP_INH", "CAP_PRM", "CAP_EFF")},
        "capabilities",
    ),
    "securebits": ({"SECBITS": [0x15]}, "securebits"),
    "uid": ({"UID": ROOT}, "user id 0"),
    "euid": ({"EUID": ROOT, "FSUID": ROOT}, "user id 0"),
    "saved uid": ({"SUID": ROOT}, "user id 0"),
    "fsuid": ({"FSUID": ROOT}, "user id 0"),
    "fsuid said twice": ({"FSUID": [1001, 0]}, "user id 0"),
    "bob": ({n: [1002] for n in ("UID", "EUID", "SUID", "FSUID")}, "user id 1002"),
    "gid": ({"GID": ROOT}, "group id 0"),
    "saved gid": ({"SGID": [1100]}, "group id 1100"),
    "fsgid": ({"FSGID": ROOT}, "group id 0"),
    "groups": ({"GROUPS": [0, 1001, 1100]}, "supplementary group 0"),
    "another group": ({"GROUPS": [42]}, "supplementary group 42"),
}


@pytest.mark.parametrize("which", [0, 1, 2], ids=["process", "thread", "child"])
@pytest.mark.parametrize("claim", CLAIMS)
def test_claim(made: tuple[Login, str, Path], claim: str, which: int) -> None:
    alice, step, images = made
    claims, words = CLAIMS[claim]
    forge.creds(cores(images)[which], **claims)
    refused(alice, step, images, f"its image asks for {words}: it was tampered with$")
