# SPDX-License-Identifier: GPL-2.0-or-later
"""A restarted batch job's output file: what the script left, and what this start has said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pycr.engine.files import OpenFile
from pycr.pod import files

OLD = "old lines\n"
RESTORE = """
import os, sys
from pathlib import Path
from pycr.pod import files
from pycr.pod import restore
from pycr.images.manifest import TaskImage
from pycr.pod.meeting import Place
where = Path(sys.argv[1])
mine = TaskImage(**dict.fromkeys(TaskImage._fields))._replace(files={"stdout": (10, "")})
task = files.Files(where.parent, Place("12.batch", 0, 1), files.CUT)
images = os.open(where, os.O_RDONLY)
task.prepare(images, where)
task.cut_streams(restore.put_outputs_back(images, mine))
"""


@pytest.mark.parametrize(
    ("found", "left", "kept"),
    [
        ("", OLD, ""),
        ("of now\n", f"{OLD}of now\n", ""),  # Slurm has truncated it; then a TaskProlog spoke
        (f"{OLD}since\n", OLD, "since\n"),
        (f"{OLD}slurmstepd: error: *** JOB 12 ON n0 CANCELLED ***\n", OLD, ""),
    ],
)
def test_what_is_left_of_an_output(tmp_path: Path, found: str, left: str, kept: str) -> None:
    where = tmp_path / "12.batch" / "0001" / "task.0"
    where.mkdir(parents=True)
    output = tmp_path / "output"
    output.write_text(found)
    files.save(where, [OpenFile(str(output), "stdout", len(OLD), 0o100644, 1, 1, "", "")])
    (where / "stdout").write_text(OLD)
    with output.open("a") as file:
        done = subprocess.run(
            [sys.executable, "-c", RESTORE, where],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert output.read_text() == left
    cut = [path.read_text() for path in where.parent.parent.glob("cut-*/task.0.*")]
    assert "".join(cut) == kept
