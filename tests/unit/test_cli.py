# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: what it takes for what, its help, and its way out."""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pycr import cli, errors
from pycr.cli import verify, words
from pycr.errors import UsageError
from pycr.images import manifest
from pycr.images.writer import Writer
from pycr.slurm import BATCH, Geometry, names_nodes
from tests.unit.test_image import write
from tests.unit.test_manifest import BATCH_PART, made

ROOT = Path(__file__).parents[2]


def pycr(
    *words: str, python: str = sys.executable, **more: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-B", "-m", "pycr.cli", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        **more,
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("12", (12, None)),
        ("12.0", (12, 0)),
        ("012.07", (12, 7)),
        ("12.batch", (12, BATCH)),
        ("999999999", (999999999, None)),
    ],
)
def test_step_id(text: str, wanted: tuple[int, int | None]) -> None:
    assert cli.step_id(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "00.1",
        "12_1",
        "12_1.0",
        ".",
        "12.",
        ".0",
        "12.0.1",
        "-1",
        "+1",
        "1e3",
        " 12",
        "12\n",
        "12.extern",
        "12.batch.0",
        "batch",
        "1" * 10,
        "١٢",
    ],
)
def test_no_step_id(text: str) -> None:
    with pytest.raises(UsageError, match=r"neither JOB nor JOB.STEP"):
        cli.step_id(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (100 * 1024, "100 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (2 << 40, "2.0 TiB"),
        (5000 << 40, "5000.0 TiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert cli.size(count) == text


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ([], False),
        (["-N2"], True),
        (["-N", "2"], True),
        (["--nodes=2"], True),
        (["--nodes", "2-3"], True),
        (["-wn1"], True),
        (["--nodelist=n1"], True),
        (["-F", "file"], True),
        (["--nodefile=f"], True),
        (["-n4", "--ntasks-per-node=2"], False),
        (["--exclude=n1", "-x", "n2"], False),
        (["-o", "out", "--time=1"], False),
        (["--no-kill"], False),
        (["--nodelistless"], False),
    ],
)
def test_names_nodes(options: list[str], wanted: bool) -> None:
    assert names_nodes(options) is wanted


@pytest.mark.parametrize("text", ["1", "60", "2147483647"])
def test_max_wait(text: str) -> None:
    assert words.seconds(text) == int(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "soon", "2147483648", "²", "1 "])
def test_no_max_wait(text: str) -> None:
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):  # argparse tells both
        words.seconds(text)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_every_verb(verb: str) -> None:
    done = pycr(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"usage: pycr {verb}" in done.stdout
    assert cli.VERBS[verb][1][1:] in " ".join(done.stdout.split())
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_help_names_every_verb() -> None:
    done = pycr("--help")
    assert done.returncode == 0
    for verb, (_, line) in cli.VERBS.items():
        assert f"  {verb}" in done.stdout
        assert line in done.stdout


@pytest.mark.parametrize("verb", ["create", "vacate", "requeue", "ls", "show", "rm", "doctor"])
def test_json_on_all(verb: str) -> None:
    assert "--json" in pycr(verb, "--help").stdout


def test_version() -> None:
    done = pycr("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "pycr")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["create"],
        ["create", "x"],
        ["create", "1", "2"],
        ["create", "1", "--max-wait=0"],
        ["vacate", "1", "--independent"],
        ["requeue"],
        ["requeue", "1", "--independent"],
        ["requeue", "1", "--max-wait=0"],
        ["requeue", "1", "2"],
        ["restart"],
        ["restart", "--job-id"],
        ["restart", "--nodes=2", "1"],
        ["create", "1", "--max"],
        ["ls", "--nonsense"],
        ["ls", ""],
        ["rm", ""],
        ["rm", "12.0", "--image-dir="],
        ["restart", "", "--dry-run"],
        ["gc", "/tmp", ""],
        ["report", "1", "-o", ""],
    ],
    ids=" ".join,
)
def test_bad_usage(words: list[str]) -> None:
    done = pycr(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("step", ["12.0", "12.3"])
def test_a_step_is_not_requeued(step: str) -> None:
    done = pycr("requeue", step)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"pycr: {step}: only a job can be requeued, not a step\n"


@pytest.mark.parametrize("option", ["--nodes=2", "-N2", "--exclusive"])
def test_options_of_sbatch_before_the_checkpoint(option: str) -> None:
    done = pycr("restart", option, "12")
    assert (done.returncode, done.stdout) == (2, "")
    wanted = "options of sbatch and srun go behind the checkpoint"
    assert done.stderr == f"pycr: {option.partition(' ')[0]}: {wanted}\n"


def checkpoint_of(place: Path, step_id: int, batch: dict[str, Any]) -> Path:
    """Make a checkpoint without a file in it."""
    writer = Writer(place, 12, step_id)
    writer.add_tasks(1)
    wanted = made(1)
    task = wanted.tasks[0]._replace(files={})
    geometry = Geometry(1, 1, 0, "", "", "", "", "", "", "app", "", "", "")._asdict()
    path = writer.commit(
        wanted._replace(step_id=step_id, batch=batch, tasks=[task], geometry=geometry)
    )
    writer.close()
    return path


def test_only_a_batch_job_has_its_old_id_again(tmp_path: Path) -> None:
    path = checkpoint_of(tmp_path, 0, {})
    done = pycr("restart", "--job-id", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pycr: --job-id: only a batch job is restarted under its old id\n"


@pytest.fixture
def strangers() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A directory of somebody's who is not root, and how Popen becomes them."""
    if os.getuid() != 0:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name), {}
        return
    who = pwd.getpwnam("nobody")
    # The system's interpreter, where there is one: this one may lie below /root.
    system = "/usr/bin/python3"
    python = system if Path(system).exists() else sys.executable
    as_them: dict[str, Any] = {
        "user": who.pw_uid,
        "group": who.pw_gid,
        "extra_groups": [],
        "python": python,
    }
    try:
        pycr("--version", **as_them).check_returncode()
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip(f"an unprivileged user cannot run {python} in {ROOT}")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chown(name, who.pw_uid, who.pw_gid)
        yield Path(name), as_them


def given_to(path: Path, uid: int) -> None:
    """Make a checkpoint another user's, its manifest too."""
    value = json.loads((path / "manifest.json").read_bytes())["manifest"]
    value["uid"] = uid
    (path / "manifest.json").write_bytes(manifest.seal(json.dumps(value).encode()))
    for each in (path.parent, *path.parent.rglob("*")):
        os.chown(each, uid, -1)


def test_a_job_under_its_old_id_keeps_its_options(
    strangers: tuple[Path, dict[str, Any]],
) -> None:
    place, as_them = strangers
    path = checkpoint_of(place, BATCH, BATCH_PART)
    given_to(path, as_them.get("user", os.getuid()))
    done = pycr("restart", "--job-id", "--dry-run", str(path), "--nodes=3", **as_them)
    assert (done.returncode, done.stdout) == (2, "")
    wanted = "pycr: --job-id: the job keeps its own options: --nodes=3 cannot be given\n"
    assert done.stderr == wanted
    done = pycr("restart", "--job-id", "--dry-run", str(path), **as_them)
    assert (done.returncode, done.stdout, done.stderr) == (0, "scontrol requeue 12\n", "")


def test_a_directory_that_may_not_be_looked_into(
    strangers: tuple[Path, dict[str, Any]],
) -> None:
    place, as_them = strangers
    closed = place / "closed"
    closed.mkdir(mode=0)
    for verb in ("show", "rm", "restart"):
        done = pycr(verb, f"{closed}/1.0", **as_them)
        assert (done.stderr, done.returncode) == (f"pycr: {closed}/1.0: Permission denied\n", 10)


def test_another_users_checkpoint(strangers: tuple[Path, dict[str, Any]]) -> None:
    place, as_them = strangers
    if not as_them:
        pytest.skip("needs root, to be two users")
    path = checkpoint_of(place, BATCH, BATCH_PART)
    for each in (place, *place.rglob("*")):
        each.chmod(0o755)
    done = pycr("restart", "--dry-run", str(path), **as_them)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith(f"pycr: {path}: it is another user's")


def test_a_step_is_restarted_by_its_owner(strangers: tuple[Path, dict[str, Any]]) -> None:
    place, as_them = strangers
    if not as_them:
        pytest.skip("needs root, to be two users")
    path = checkpoint_of(place, 0, {})
    given_to(path, as_them["user"])
    done = pycr("restart", "--dry-run", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pycr: a step is restarted by its owner, not by root\n"


def test_every_error_has_a_status_of_its_own() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.PycrError)
    ]
    kinds.remove(errors.Later)  # it never leaves pycr: TimedOut does in its place
    kinds.remove(errors.Suspended)  # it is a SlurmError with a number
    statuses = [kind.exit_status for kind in kinds]
    assert len(set(statuses)) == len(statuses)
    for kind in kinds:
        line = next(line for line in errors.__doc__.splitlines() if f"{kind.__name__} " in line)
        assert str(kind.exit_status) in line.split()
        assert not kind.eslurm or kind.eslurm < 10000


@pytest.mark.parametrize(
    ("redirected", "said", "status"),
    [
        ("| true", "", 141),
        ("> /dev/full", "pycr: standard output: No space left on device\n", 8),
        (">&-", "", 0),
        ("2>&- | cat", "", 0),
        ("<&- >&- 2>&-", "", 0),
    ],
)
@pytest.mark.parametrize("words", ["rm --help", "show"])
def test_output_that_goes_nowhere(
    tmp_path: Path, words: str, redirected: str, said: str, status: int
) -> None:
    path = checkpoint_of(tmp_path, 0, {})
    done = subprocess.run(
        f"{sys.executable} -m pycr.cli {words} {path} {redirected}; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        capture_output=True,
        errors="surrogateescape",
        check=False,
    )
    assert (done.stderr, done.returncode) == (said, status)


def test_no_stream_that_is_closed_is_taken_by_a_file() -> None:
    code = (
        "import os; from pycr import cli; cli.have_streams();"
        "os._exit(os.open('/dev/null', 0) - 3 + sum(os.isatty(n) for n in range(3)))"
    )
    subprocess.run(
        f"{sys.executable} -c {shlex.quote(code)} <&- >&- 2>&-", shell=True, cwd=ROOT, check=True
    )


def test_rm_of_the_same_twice(tmp_path: Path) -> None:
    path = checkpoint_of(tmp_path, 0, {})
    done = pycr("rm", str(path), f"{path}/", str(path.parent))
    assert (done.stderr, done.returncode) == ("", 0)
    assert not path.parent.exists()


def test_names_that_are_no_text_are_shown_as_they_are(tmp_path: Path) -> None:
    """Where the locale is not C, Python would refuse to print them."""
    path = checkpoint_of(tmp_path, 0, {})
    done = subprocess.run(
        [sys.executable, "-B", "-m", "pycr.cli", "show", str(path)],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"./app 'a b' '\xff'" in done.stdout


@pytest.mark.parametrize(
    ("state", "out"),
    [
        ("IDLE", False),
        ("MIXED+CLOUD", False),
        ("IDLE+CLOUD+POWERED_DOWN", False),
        ("IDLE+POWERING_DOWN", False),
        ("DOWN", True),
        ("DOWN*+NOT_RESPONDING", True),
        ("IDLE+DRAIN", True),
        ("UNKNOWN*", True),
    ],
)
def test_a_node_that_sleeps_can_be_started(state: str, out: bool) -> None:
    assert verify.is_out(state) == out


@pytest.mark.skipif(os.geteuid() != 0, reason="expected: only root gives files away")
def test_ls_of_another_users(tmp_path: Path) -> None:
    """Which root may look at: it is not damaged."""
    path = write(tmp_path)
    os.chown(path, 12345, 12345)
    (line,) = [line for line in pycr("ls", str(tmp_path)).stdout.splitlines() if "0001" in line]
    assert "refused" in line and "it is another user's: not safe for a checkpoint" in line
    (found,) = json.loads(pycr("ls", "--json", str(tmp_path)).stdout)
    assert (found["whole"], found["denied"]) == (False, True)
