# SPDX-License-Identifier: GPL-2.0-or-later
"""Which files a batch job's restart has dealt with: told to its steps, and to no other restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from pycr.pod.meeting import Place
from pycr.pod.settled import Settled


@pytest.fixture
def generation(tmp_path: Path) -> Path:
    made = tmp_path / "12.batch" / "0001"
    (made / "12.0").mkdir(parents=True)
    return made


def of(generation: Path, step: str) -> Settled:
    """Return what a task 0 of a step knows."""
    made = Settled(generation, Place(step, 0, 1))
    made.begin()
    return made


def test_steps_of_the_same_restart_are_told(generation: Path, tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.touch()
    script = of(generation, "14.batch")
    script.say([str(file), str(tmp_path / "gone")])
    assert of(generation / "12.0", "14.0").has(str(file))
    assert not of(generation / "12.0", "15.0").has(str(file))
    # It is another file by the same name.
    file.rename(tmp_path / "other")
    file.touch()
    assert not of(generation / "12.0", "14.0").has(str(file))
    script.end()
    assert sorted(path.name for path in generation.parent.iterdir()) == ["0001"]


def test_what_an_earlier_start_has_said_is_forgotten(generation: Path, tmp_path: Path) -> None:
    of(generation, "14.batch").say([str(tmp_path)])
    step = of(generation / "12.0", "14.0")
    step.say([str(tmp_path)])
    step.withdraw()
    assert of(generation / "12.0", "14.1").has(str(tmp_path))
    assert not of(generation, "14.batch").has(str(tmp_path))
    assert not of(generation / "12.0", "14.1").has(str(tmp_path))


@pytest.mark.parametrize("text", ["", "[", "3", "[3]", '{"a": 1}', "[[[]]]", "\x00"])
def test_what_is_no_list_says_nothing(generation: Path, tmp_path: Path, text: str) -> None:
    of(generation, "14.batch").say([str(tmp_path)])
    (generation.parent / ".restart-14.batch" / "14.9.0").write_text(text)
    assert of(generation / "12.0", "14.0").has(str(tmp_path))


def test_a_lone_step_says_nothing(tmp_path: Path) -> None:
    generation = tmp_path / "12.0" / "0001"
    generation.mkdir(parents=True)
    lone = of(generation, "14.0")
    lone.say([str(tmp_path)])
    assert not of(generation, "14.0").has(str(tmp_path))
    assert [path.name for path in generation.parent.iterdir()] == ["0001"]
