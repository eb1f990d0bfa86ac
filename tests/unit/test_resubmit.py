# SPDX-License-Identifier: GPL-2.0-or-later
"""The job that is submitted for a batch script's checkpoint: its options, and the script it has."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from pycr.coordinator import resubmit
from pycr.errors import ImageError
from pycr.images import image
from pycr.images.manifest import Manifest
from pycr.slurm import BATCH, Geometry
from tests.unit.test_manifest import BATCH_PART, made

GENERATION = Path("/images/12.batch/0001")
PLAIN = Geometry(
    tasks=4,
    nodes=2,
    cpus_per_task=0,
    mem_per_cpu="",
    mem_per_node="",
    partition="",
    account="",
    qos="",
    time_limit="",
    name="",
    features="",
    gres="",
    reservation="",
)
FULL = PLAIN._replace(
    cpus_per_task=3,
    mem_per_cpu="100M",
    partition="debug",
    account="physics",
    qos="normal",
    time_limit="1-02:00:00",
    name="my job",
    features="fast&big",
    gres="gres:gpu:2,gres/disk:1",
    reservation="course",
)


def batch(*streams: tuple[str, str], work_dir: str = "/home/alice") -> Manifest:
    """Return a batch script's manifest; streams: kind and name of its output and error."""
    wanted = streams or (("file", "/home/alice/slurm-12.out"),) * 2
    found = [{"fd": 0, "kind": "null", "name": "/dev/null"}]
    found += [{"fd": fd, "kind": kind, "name": name} for fd, (kind, name) in enumerate(wanted, 1)]
    value = made(1)
    task = value.tasks[0]._replace(streams=found)
    part = {**BATCH_PART, "work_dir": work_dir}
    return value._replace(step_id=BATCH, batch=part, tasks=[task])


def options(wanted: Geometry = PLAIN, *more: str, **batch_part: Any) -> list[str]:
    command = resubmit.sbatch(GENERATION, batch(**batch_part), wanted, list(more))
    assert command[0] == "sbatch"
    return command[1:]


def test_what_every_job_has() -> None:
    assert options() == [
        f"--restart-dir={GENERATION}",
        "--open-mode=append",
        "--output=/home/alice/slurm-12.out",
        "--error=/home/alice/slurm-12.out",
        "--nodes=2",
        "--ntasks=4",
        "--chdir=/home/alice",
        "--dependency=",
    ]


def test_what_the_old_job_had() -> None:
    assert set(options(FULL)) - set(options()) == {
        "--cpus-per-task=3",
        "--mem-per-cpu=100M",
        "--partition=debug",
        "--account=physics",
        "--qos=normal",
        "--time=1-02:00:00",
        "--job-name=my job",
        "--constraint=fast&big",
        "--gres=gpu:2,disk:1",
        "--reservation=course",
    }
    assert "--mem=2G" in options(PLAIN._replace(mem_per_node="2G"))


def test_the_users_own_options_come_last() -> None:
    """sbatch takes the last of those that it has twice."""
    more = ["--partition=other", "-t", "5", "--dependency=afterok:3"]
    found = options(FULL, *more)
    assert found[-len(more) :] == more
    assert found.index("--partition=debug") < found.index("--partition=other")


@pytest.mark.parametrize("option", [["--nodes=1"], ["-N", "1"], ["--nodelist=n1"], ["-wn1"]])
def test_the_users_own_nodes(option: list[str]) -> None:
    """Two of these may contradict one another, and not only win."""
    assert not [each for each in options(FULL, *option) if each == "--nodes=2"]


@pytest.mark.parametrize("option", ["--mem=1G", "--mem-per-cpu=1G"])
def test_the_users_own_memory(option: str) -> None:
    """Slurm refuses a job with both kinds."""
    for wanted in (FULL, PLAIN._replace(mem_per_node="2G")):
        found = [each for each in options(wanted, option) if each.startswith("--mem")]
        assert found == [option]


def test_a_name_with_percent_signs_is_no_pattern() -> None:
    found = resubmit.sbatch(GENERATION, batch(("file", "/o/100%j"), ("file", "/o/%%x")), PLAIN, [])
    assert "--output=/o/100%%j" in found
    assert "--error=/o/%%%%x" in found


@pytest.mark.parametrize("kind", ["pipe", "tty", "other", "closed"])
def test_a_stream_that_is_no_file(kind: str) -> None:
    found = resubmit.sbatch(
        GENERATION, batch(("null", "/dev/null"), (kind, "pipe:[77]")), PLAIN, []
    )
    assert "--output=/dev/null" in found
    assert not [each for each in found if each.startswith("--error")]


# ---- its script ---------------------------------------------------------------------------------


def stand_in(tmp_path: Path, text: bytes) -> str:
    (tmp_path / "task.0").mkdir(exist_ok=True)
    (tmp_path / "task.0" / image.SCRIPT).write_bytes(text)
    return resubmit.stand_in(tmp_path)


def kept(tmp_path: Path, text: bytes) -> list[str]:
    """Return the lines that the stand-in has of the old script."""
    found = stand_in(tmp_path, text)
    assert found.startswith("#!/bin/sh\n")
    assert found.endswith(resubmit.COMPLAINT)
    return found[len("#!/bin/sh\n") : -len(resubmit.COMPLAINT)].splitlines()


SCRIPT = b"""#!/bin/bash
# A comment
#SBATCH --time=5
#SBATCH -n 4   # four

#SBATCH --comment="a b"
 #SBATCH --no
##SBATCH --no
echo hello
#SBATCH --no
"""


def test_only_options_up_to_the_first_command_are_kept(tmp_path: Path) -> None:
    lines = SCRIPT.replace(b" #SBATCH --no\n", b"")
    assert kept(tmp_path, lines) == [
        "#SBATCH --time=5",
        "#SBATCH -n 4   # four",
        '#SBATCH --comment="a b"',
    ]


def test_an_indented_option_is_a_command(tmp_path: Path) -> None:
    """To sbatch too: what does not begin with # ends its options."""
    assert kept(tmp_path, SCRIPT + b"#SBATCH --no\n")[-1] == '#SBATCH --comment="a b"'


@pytest.mark.parametrize("text", [b"", b"#!/bin/sh\n", b"echo\n#SBATCH -n1\n", b"\n\n"])
def test_a_script_without_options(tmp_path: Path, text: bytes) -> None:
    assert kept(tmp_path, text) == []


def test_what_is_not_utf_8_comes_back(tmp_path: Path) -> None:
    found = stand_in(tmp_path, b"#SBATCH -J \xff\xfe\n")
    assert b"#SBATCH -J \xff\xfe\n" in found.encode(errors="surrogateescape")


def test_an_odd_character_does_not_end_a_line(tmp_path: Path) -> None:
    """Only \\n does, to sbatch."""
    text = "#SBATCH --comment=a\x0cb\n# a\x0b c\u2028d\n#SBATCH -n1\n"
    assert "#SBATCH -n1\n" in stand_in(tmp_path, text.encode())


def test_it_runs_nothing_but_the_complaint(tmp_path: Path) -> None:
    """Where the plugin is not, the old script must not begin anew."""
    path = tmp_path / "script"
    path.write_text(stand_in(tmp_path, SCRIPT))
    done = subprocess.run(
        ["/bin/sh", path],
        env={"SLURMD_NODENAME": "n1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == (
        "pycr: couldn't restart: the batch script on n1: the spank_cr plugin is not enabled there"
        " (plugstack.conf)\n"
    )


def test_no_script(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"/task\.0/slurm_script: No such file or directory$"):
        resubmit.stand_in(tmp_path)
