# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of a round in which something was wrong: output, logs, processes, images' names."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.faults.scene import Scene


def keep(directory: Path, scene: Scene) -> None:
    """Keep it in a directory, in place of what was there."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for path in scene.victim.login.place.iterdir():
        if path.is_file():
            shutil.copy(path, directory)
    for name, text in scene.cluster.logs().items():
        (directory / name.replace("/", "-")).write_text(text)
    images = scene.host("n0", scene.images)
    listing = subprocess.run(["ls", "-laR", images], capture_output=True, text=True).stdout
    (directory / "images").write_text(listing)
    processes = "\n".join(map(str, scene.processes.all()))
    (directory / "processes").write_text(processes)
