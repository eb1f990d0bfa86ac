# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are deleted and still open: they come back with what was in them, up to a size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.login import Login, until
from tests.slurm.test_failures import PLUGIN, assert_fails, plugstack

SILLY = ".nfs00000000deadbeef00000001"


def begin(alice: Login, *words: str) -> str:
    """Start the victim on n0; return its step."""
    alice.popen("srun", "-n1", "-wn0", alice.victim("deleted.py"), *words)
    until("it to begin", lambda: (alice.place / "ready").exists())
    return alice.step()


def restart(alice: Login, step: str) -> tuple[int, str, str]:
    """Restart it on another node, let it end; return its status, output and complaints."""
    process = alice.popen("pycr", "restart", "--image-dir", ".", step, "-wn1")
    until("it to run", lambda: alice.steps())
    (alice.place / "stop").touch()
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def names(place: Path) -> set[str]:
    return {path.name for path in place.iterdir() if "nfs" in path.name}


@pytest.mark.parametrize("kind", ["open", "mapped"])
@pytest.mark.parametrize("size", ["1", "96"])
def test_deleted_file_comes_back(alice: Login, kind: str, size: str) -> None:
    step = begin(alice, kind, size)
    assert alice.pycr("vacate", step, "--image-dir", ".").returncode == 0
    assert restart(alice, step)[:2] == (7, "pass\n")
    assert not (alice.place / "deleted").exists()


@pytest.mark.parametrize("kind", ["open", "mapped"])
def test_deleted_file_that_is_too_large(alice: Login, cluster: Any, kind: str) -> None:
    step = begin(alice, kind, "3")
    with plugstack(cluster, "n0", f"{PLUGIN} ghost_limit=2"):
        for verb in ("create", "vacate"):
            done = alice.pycr(verb, step, "--image-dir", ".")
            words = f"deleted or replaced ({alice.dir}/deleted) and has 3 MiB, and at most 2 MiB of"
            assert_fails(done, 9, f"step {step}: task 0 on n0: ", words, "ghost_limit in")
    until("pycr's step to end", lambda: alice.steps() == [step])
    (alice.place / "stop").touch()


def test_file_that_nfs_has_renamed(alice: Login) -> None:
    step = begin(alice, "nfs")
    assert alice.pycr("create", step, "--image-dir", ".").returncode == 0
    assert names(alice.place) == {SILLY}  # as before
    assert alice.pycr("vacate", step, "--image-dir", ".").returncode == 0
    assert names(alice.place) == {SILLY}
    (alice.place / SILLY).unlink()  # NFS does, when the last process that had it open has ended
    status, out, err = restart(alice, step)
    assert (status, out) == (7, "pass\n"), err
    assert names(alice.place) == set()


def test_nfs_file_that_is_too_large(alice: Login, cluster: Any) -> None:
    step = begin(alice, "nfs", "3")
    with plugstack(cluster, "n0", f"{PLUGIN} ghost_limit=2"):
        done = alice.pycr("create", step, "--image-dir", ".")
    words = f"it has {alice.dir}/{SILLY} open, a deleted file of 3.0 MiB, and at most 2.0 MiB"
    assert_fails(done, 9, f"step {step}: task 0 on n0: ", words, "(ghost_limit)")
    assert names(alice.place) == {SILLY}
    until("pycr's step to end", lambda: alice.steps() == [step])
