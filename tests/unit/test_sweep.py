# SPDX-License-Identifier: GPL-2.0-or-later
"""Root's way through the directories of users: it is never there itself."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycr.errors import DirectoryError
from pycr.images import sweep
from tests.unit.test_image import write

ALICE, BOB = 60001, 60002  # nobody has these numbers here

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="expected: only root can become others")


@pytest.fixture
def tree() -> Iterator[Path]:
    """Directories of several owners, with images in each: root's, alice's, and bob's in hers."""
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    for name in ("alice", "alice/roots", "alice/deep/bob", "alice/deep/bob/hers", "secret"):
        (top / name).mkdir(parents=True, exist_ok=True)
        write(top / name)
    (top / "secret").chmod(0o700)
    (top / "alice" / "link").symlink_to(top / "secret")
    (top / "linked").symlink_to(top / "alice" / "deep")
    owners = {"alice": ALICE, "alice/roots": 0, "alice/deep/bob": BOB, "alice/deep/bob/hers": ALICE}
    for name, uid in owners.items():
        for path in (top / name, *(top / name).rglob("*")):
            os.chown(path, uid, uid, follow_symlinks=False)
    (top / "alice" / "deep" / "bob").chmod(0o711)
    yield top
    shutil.rmtree(top)


def say(place: Path) -> Iterator[sweep.Report]:
    ids = [*os.getresuid(), *os.getresgid(), *os.getgroups()]
    yield {"path": str(place), "ids": ids, "tty": os.readlink("/proc/self/fd/0")}


def test_each_directory_is_its_owners_to_work_in(tree: Path) -> None:
    found = {report["path"]: (uid, report) for uid, report in sweep.everyone(tree, say)}
    bobs = tree / "alice" / "deep" / "bob"
    wanted = {str(tree / "alice"): ALICE, str(bobs): BOB, str(bobs / "hers"): ALICE}
    assert {path: uid for path, (uid, _) in found.items()} == wanted
    for uid, report in found.values():
        assert report["ids"] == [uid] * 3 + [65534] * 3
        assert report["tty"] == os.devnull


def test_one_that_is_stopped_or_killed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its user can do that; the others have their turn."""
    monkeypatch.setattr(sweep, "SILENCE", 0.5)

    def work(place: Path) -> Iterator[sweep.Report]:
        if os.getuid() == ALICE:
            os.kill(os.getpid(), signal.SIGSTOP if place.name == "alice" else signal.SIGKILL)
        yield {"path": str(place), "error": ""}

    # Of hers comes first what belongs to others.
    found = [
        (uid, report["path"], bool(report["error"])) for uid, report in sweep.everyone(tree, work)
    ]
    assert (ALICE, str(tree / "alice"), True) in found
    assert all(error == (uid == ALICE) for uid, _, error in found)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    for name in ("missing", "file", "link"):
        (tmp_path / "file").touch()
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(tmp_path)
        with pytest.raises(DirectoryError, match=str(tmp_path / name)):
            list(sweep.everyone(tmp_path / name, say))
