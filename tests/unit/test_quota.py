# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel says of a quota, and what is made of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pycr.errors import DirectoryError
from pycr.images import space
from pycr.images.space import Quota

MIB = 1 << 20


def kernels(hard: int, soft: int, used: int, until: int = 0, valid: int = 0x3F) -> bytes:
    """Return a struct if_dqblk as the kernel fills it: limits in KiB, use in bytes."""
    return space.DQBLK.pack(hard >> 10, soft >> 10, used, 9, 9, 1, until, 0, valid) + bytes(8)


@pytest.mark.parametrize(
    ("data", "left"),
    [
        (kernels(10 * MIB, 0, 4 * MIB), 6 * MIB),
        (kernels(10 * MIB, 0, 12 * MIB), 0),
        (kernels(0, 0, 4 * MIB), None),
        (kernels(10 * MIB, 5 * MIB, 4 * MIB), 6 * MIB),
        (kernels(10 * MIB, 5 * MIB, 6 * MIB, until=2000), 4 * MIB),
        (kernels(10 * MIB, 5 * MIB, 6 * MIB, until=1000), 0),
        (kernels(0, 5 * MIB, 6 * MIB, until=1000), 0),
        (kernels(10 * MIB, 0, 4 * MIB, valid=4), None),
    ],
)
def test_what_is_left_of_it(data: bytes, left: int | None) -> None:
    assert space.read_quota(data).left(now=1500.0) == left


def test_the_smallest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Quota(0, 0, 5, 0), Quota(9 * MIB, 0, 4 * MIB, 0), Quota(7 * MIB, 0, 4 * MIB, 0)]
    monkeypatch.setattr(space, "quotas", lambda directory: found)
    assert space.free(tmp_path) == (3 * MIB, " by your quota")
    space.check(tmp_path, 3 * MIB, "step 1.0")
    with pytest.raises(DirectoryError, match=r"needs 3\.0 MiB or more, and 3\.0 MiB are free by"):
        space.check(tmp_path, 3 * MIB + 1, "step 1.0")


def test_none_where_the_kernel_keeps_none(tmp_path: Path) -> None:
    for directory in (tmp_path, Path("/proc"), tmp_path / "missing"):
        assert space.quotas(directory) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="expected: mounting needs root")
def test_a_real_quota(tmp_path: Path) -> None:
    """ext4 with quotas, where the kernel has them (CONFIG_QFMT_V2) and there is a loop device."""
    disk, place = tmp_path / "disk", tmp_path / "place"
    place.mkdir()
    disk.touch()
    os.truncate(disk, 64 * MIB)
    made = subprocess.run(["mkfs.ext4", "-q", "-O", "quota", disk], capture_output=True)
    mount = ["mount", "-o", "loop,usrquota", str(disk), str(place)]
    if made.returncode or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("expected: no ext4 with quotas here")
    try:
        (place / "file").write_bytes(b"x" * MIB)
        os.sync()
        found = space.quotas(place)
        assert found and found[0].used >= MIB and found[0].left(0) is None
    finally:
        subprocess.run(["umount", place], check=True)
