# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of disk space, where it is too little; on a real disk: test_refusals_2.py."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pycr.errors import DirectoryError
from pycr.images import image, space


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "No space left on device"), (errno.EDQUOT, "Disk quota exceeded")],
)
def test_disk_that_is_full(tmp_path: Path, number: int, words: str) -> None:
    path = tmp_path / "not" / "there"
    said = str(image.directory_error(path, OSError(number, os.strerror(number))))
    assert said.startswith(f"{path}: {words} (")
    assert " are free): remove old checkpoints (pycr rm), or name another --image-dir" in said
    assert "\n" not in said


def test_other_errors_say_nothing_of_space(tmp_path: Path) -> None:
    error = image.directory_error(tmp_path, OSError(errno.EROFS, os.strerror(errno.EROFS)))
    assert str(error) == f"{tmp_path}: Read-only file system"


def test_what_fits_and_what_does_not(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    space.check(tmp_path, status.f_bavail * status.f_frsize // 2, "step 1.0")
    with pytest.raises(DirectoryError) as caught:
        space.check(tmp_path, 1 << 60, "step 1.0")
    said = str(caught.value)
    assert said.startswith(f"step 1.0: image directory {tmp_path}: the checkpoint needs 1048576.0 ")
    assert f"and {space.left(tmp_path)}: remove" in said


def test_file_system_that_counts_nothing() -> None:
    """It is not taken for full."""
    assert space.left(Path("/proc")) == "0 B are free"
    space.check(Path("/proc"), 1 << 60, "step 1.0")
