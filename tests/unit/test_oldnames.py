# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of checkpoint/blcr's images, in the command and in the plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

from pycr.errors import ImageError
from pycr.images import image, oldnames

NAMES = [
    ("12.3/task.0.ckpt", "12.3"),
    ("12.3/task.15.ckpt", "12.3"),
    ("12.3.ckpt", "12.3"),
    ("12/script.ckpt", "12.batch"),
    ("12.ckpt", "12.batch"),
    ("12", "12.batch"),
    ("12.3", "12.3"),
    ("12.batch", "12.batch"),
    ("12.3/0001", "12.3/0001"),
    ("task.x.ckpt", "task.x.ckpt"),
    ("script.ckpt.old", "script.ckpt.old"),
    ("a.ckpt", "a.ckpt"),
    (".ckpt", ".ckpt"),
]


@pytest.mark.parametrize(("old", "new"), NAMES)
def test_successors(tmp_path: Path, old: str, new: str) -> None:
    (tmp_path / "12.batch").mkdir()
    assert oldnames.successor(tmp_path / old) == tmp_path / new


def test_what_there_is_comes_first(tmp_path: Path) -> None:
    assert oldnames.successor(tmp_path / "12") == tmp_path / "12", "no successor either"
    for name in ("12.3.ckpt", "12"):
        (tmp_path / name).mkdir()
        assert oldnames.successor(tmp_path / name) == tmp_path / name
    (tmp_path / "12.batch").mkdir()
    assert oldnames.successor(tmp_path / "12" / "script.ckpt") == tmp_path / "12.batch"


@pytest.mark.parametrize("name", ["12.3/task.0.ckpt", "12/script.ckpt", "12.ckpt"])
def test_images_of_blcr_are_refused(tmp_path: Path, name: str) -> None:
    """By their own name and by their directory's."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"C0 ")
    said = "an image of BLCR, which CRIU cannot read: the job has to start from its beginning"
    with pytest.raises(ImageError) as caught:
        image.resolve(path)
    assert str(caught.value) == f"{path}: {said}"
    if path.parent != tmp_path:
        with pytest.raises(ImageError, match=f"{path.name} in it is {said}"):
            image.resolve(path.parent)
