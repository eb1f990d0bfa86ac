# SPDX-License-Identifier: GPL-2.0-or-later
"""A batch script in slurmstepd: restored where that was asked for, else left as it was."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pycr import protocol
from pycr.images.requeue import write_requeue
from pycr.journal import Journal

from .driver import CAP_CHECKPOINT_RESTORE, STEP, Host, Run

# Somebody whom getpwuid(3) knows, and whose home directory need not be there.
WHO = pwd.getpwnam("nobody")
SCRIPT = "/var/spool/slurmd/job00007/slurm_script"
BATCH = [*STEP[:2], f"item step {0xFFFFFFFB}", *STEP[3:], f"item uid {WHO.pw_uid}"]
WORDS = [f"word {SCRIPT}", "word first", "word second word"]
AGAIN = "jobenv SLURM_RESTART_COUNT=1"
FAILED = 125 << 8  # errors.py: RESTORE_FAILED, as a wait status
DAMAGED = "cr: couldn't requeue from a checkpoint: its requeue file is damaged"
pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def generation(place: Path) -> Path:
    """A directory for the fake helper to find its orders in, in place of a checkpoint."""
    path = place / "generation"
    path.mkdir(0o755)
    (path / "orders").write_text("exit 0", encoding="ascii")
    return path


@pytest.fixture
def requeue(place: Path, generation: Path) -> Path:
    """The requeue file of job 7 in `place`, the user's own."""
    step = place / "7.batch"
    step.mkdir(0o755)
    path = step / "requeue"
    path.write_text(f"{generation}\n", encoding="utf-8")
    os.chown(path, WHO.pw_uid, WHO.pw_gid)
    return path


def script(python: Path, *more: str, options: tuple[str, ...] = ()) -> list[str]:
    """The lines of a batch script's start; more of them come before slurm_spank_init."""
    lines = [*BATCH, *WORDS, f"arg python={python}", *more, "call init"]
    lines += [f"option {option}" for option in options]
    return [*lines, "call init_post_opt", f"task {WHO.pw_uid}"]


def from_place(python: Path, place: Path, *more: str) -> list[str]:
    """The lines of a script whose job was submitted with --checkpoint-dir."""
    return script(python, *more, options=(f"checkpoint-dir={place}",))


def went_on(run: Run) -> None:
    """See that Slurm runs the script from its beginning, without any capability."""
    assert run.status == 0, run.lines
    assert "command" in run.lines
    assert not run.all("helper")
    assert not run.errors
    assert int(run.one("keepcaps")) == 0
    assert set(run.capabilities.values()) == {0}


def restored(run: Run) -> list[str]:
    """Return the pod's words, behind `-I -m`."""
    assert run.status == 0, run.lines
    assert not run.errors
    assert "command" not in run.lines
    argv: list[str] = run.helper["argv"]
    assert argv[:2] == ["-I", "-m"]
    return argv[2:]


def refused(run: Run) -> str:
    """Return why there is no job; it must not begin from its beginning."""
    assert run.status == FAILED, run.lines
    assert "command" not in run.lines
    assert not run.all("helper")
    assert len(run.errors) == 1
    return run.errors[0]


# ---- pycr restart: sbatch --restart-dir ---------------------------------------------------------


def test_a_restarted_scripts_words(host: Host, python: Path, generation: Path) -> None:
    run = host.run(script(python, options=(f"restart-dir={generation}",)))
    words = restored(run)
    # One task, however many the job's steps may have.
    assert words[:10] == ["pycr.pod", "7", str(0xFFFFFFFB), "5", "1", "1", "n1", "", "0", "1024"]
    assert words[10] == str(generation)
    assert words[-5:-3] == [SCRIPT, "0"]
    line = [str(python), "-I", "-m", *words]
    assert protocol.pod_script(line) == SCRIPT
    assert protocol.pod_address(line).startswith("pycr-")
    assert run.helper["status"]["Uid"].split() == [str(WHO.pw_uid)] * 4
    assert int(run.helper["status"]["CapEff"], 16) & CAP_CHECKPOINT_RESTORE


def test_its_pod_is_given_slurms_variables_alone(
    host: Host, python: Path, generation: Path
) -> None:
    more = ["SLURM_JOB_ID=7", "SLURM_ODD=a=b c", "SLURM_EMPTY=", "HOME=/root", "LD_PRELOAD=/evil"]
    more += ["XSLURM_JOB_ID=1", "PATH=/evil", "SBATCH_X=1"]
    lines = script(
        python, *(f"jobenv {each}" for each in more), options=(f"restart-dir={generation}",)
    )
    report = host.run(lines).helper
    assert report["variables"] == ["SLURMD_NODENAME=n1", *more[:3]]
    # Not in the pod's own environment, which is root's.
    assert [each.partition("=")[0] for each in report["environ"]] == ["PATH", "LC_ALL"]


def test_a_script_that_cannot_be_learnt(host: Host, python: Path, generation: Path) -> None:
    lines = script(python, options=(f"restart-dir={generation}",))
    run = host.run([line for line in lines if line not in WORDS])
    assert refused(run) == "cr: couldn't learn the batch script's file: spank_get_item failed"


def test_a_script_whose_name_is_too_long(host: Host, python: Path, generation: Path) -> None:
    lines = script(python, options=(f"restart-dir={generation}",))
    lines[lines.index(WORDS[0])] = f"word /{'x' * 5000}"
    why = refused(host.run(lines))
    assert why == "cr: couldn't learn the batch script's file: spank_get_item failed"


def test_an_environment_that_cannot_be_learnt(host: Host, python: Path, generation: Path) -> None:
    run = host.run(script(python, "nojobenv", options=(f"restart-dir={generation}",)))
    assert refused(run) == "cr: couldn't learn the task's environment: spank_get_item failed"


def test_a_batch_script_is_never_a_helper(host: Host, python: Path, generation: Path) -> None:
    """The options of a batch job reach its script as well."""
    went_on(host.run(script(python, options=("cr-helper=7.0",))))
    options = ("cr-helper=7.0", f"restart-dir={generation}")
    assert restored(host.run(script(python, options=options)))[0] == "pycr.pod"


def test_root_s_own_script_is_not_restored(host: Host, python: Path, generation: Path) -> None:
    lines = script(python, options=(f"restart-dir={generation}",))
    run = host.run([*lines[:-1], "task 0"])
    assert refused(run) == "cr: couldn't checkpoint or restart: not for steps of root"


# ---- pycr requeue: the requeue file -------------------------------------------------------------


def test_from_checkpoint_dir(
    host: Host, python: Path, place: Path, requeue: Path, generation: Path
) -> None:
    words = restored(host.run(from_place(python, place, AGAIN)))
    assert words[10] == str(generation)
    assert words[-5:-3] == [SCRIPT, "1"]


@pytest.mark.parametrize(
    ("setting", "below"),
    [
        ("{place}", ""),
        ("{place}/%u/x%j", f"{WHO.pw_name}/x7"),
        ("{place}%h/%u-%u", f"{WHO.pw_dir.lstrip('/')}/{WHO.pw_name}-{WHO.pw_name}"),
        ("{place}/100%%", "100%"),
    ],
)
def test_from_the_default_place(
    host: Host, python: Path, place: Path, requeue: Path, setting: str, below: str
) -> None:
    """As config.py writes it: Site.default_dir()."""
    home = place / below
    home.mkdir(0o755, parents=True, exist_ok=True)
    if below:
        requeue.parent.rename(home / "7.batch")
    more = [f"arg checkpoint_dir={setting.format(place=place)}", AGAIN]
    assert restored(host.run(script(python, *more)))[-4] == "1"


def test_checkpoint_dir_wins_over_the_default_place(
    host: Host, python: Path, place: Path, requeue: Path
) -> None:
    (place / "else").mkdir()
    more = [f"arg checkpoint_dir={place}", AGAIN]
    went_on(host.run(from_place(python, place / "else", *more)))


def test_what_pycr_requeue_writes_is_found(
    host: Host, python: Path, place: Path, generation: Path
) -> None:
    """Written by the user, through pycr's own function."""
    home = place / "home"
    home.mkdir()
    os.chown(home, WHO.pw_uid, WHO.pw_gid)
    child = os.fork()
    if child == 0:
        try:
            os.setresuid(WHO.pw_uid, WHO.pw_uid, WHO.pw_uid)
            write_requeue(home, 7, generation)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert restored(host.run(from_place(python, home, AGAIN)))[10] == str(generation)


def test_no_requeue_file(host: Host, python: Path, place: Path) -> None:
    went_on(host.run(from_place(python, place, AGAIN)))
    went_on(host.run(from_place(python, place / "missing", AGAIN)))


@pytest.mark.parametrize("count", [[], ["jobenv SLURM_RESTART_COUNT=0"]], ids=["none", "0"])
def test_a_first_start_looks_for_nothing(
    host: Host, python: Path, place: Path, requeue: Path, count: list[str]
) -> None:
    went_on(host.run(from_place(python, place, *count)))


def test_a_step_of_a_requeued_job_looks_for_nothing(
    host: Host, python: Path, place: Path, requeue: Path
) -> None:
    lines = [*from_place(python, place, AGAIN), "item step 0"]
    lines.insert(0, lines.pop())
    lines.remove(BATCH[2])
    went_on(host.run(lines))


def test_it_wins_over_the_directory_that_the_job_was_restarted_from(
    host: Host, python: Path, place: Path, requeue: Path, generation: Path
) -> None:
    """What `pycr requeue` left is the newer one."""
    (place / "old").mkdir()
    options = (f"checkpoint-dir={place}", f"restart-dir={place}/old")
    words = restored(host.run(script(python, AGAIN, options=options)))
    assert (words[10], words[-4]) == (str(generation), "1")


def test_without_one_the_job_begins_where_it_was_restarted_from(
    host: Host, python: Path, place: Path, generation: Path
) -> None:
    """As after a node's failure: Slurm has started the job again, but nobody asked for it."""
    options = (f"checkpoint-dir={place}", f"restart-dir={generation}")
    words = restored(host.run(script(python, AGAIN, options=options)))
    assert (words[10], words[-4]) == (str(generation), "0")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def no_newline(path: Path) -> None:
    path.write_bytes(b"/somewhere")


def newline_alone(path: Path) -> None:
    path.write_bytes(b"\n")


def relative(path: Path) -> None:
    path.write_bytes(b"somewhere\n")


def two_lines(path: Path) -> None:
    path.write_bytes(b"/some\n/where\n")


def with_nul(path: Path) -> None:
    path.write_bytes(b"/some\0where\n")


def too_long(path: Path) -> None:
    path.write_bytes(b"/" + b"x" * 5000 + b"\n")


def of_root(path: Path) -> None:
    os.chown(path, 0, 0)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)
    os.chown(path, WHO.pw_uid, WHO.pw_gid)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    os.chown(path, WHO.pw_uid, WHO.pw_gid)


def link(path: Path) -> None:
    path.rename(path.with_name("else"))
    path.symlink_to("else")


def unreadable(path: Path) -> None:
    path.chmod(0)


DAMAGES = [empty, no_newline, newline_alone, relative, two_lines, with_nul, too_long, of_root]
DAMAGES += [fifo, directory]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda each: each.__name__)
def test_a_damaged_requeue_file(
    host: Host, python: Path, place: Path, requeue: Path, damage: Callable[[Path], None]
) -> None:
    damage(requeue)
    assert refused(host.run(from_place(python, place, AGAIN))) == DAMAGED


@pytest.mark.parametrize(
    ("damage", "why"),
    [(link, "Too many levels of symbolic links"), (unreadable, "Permission denied")],
    ids=["link", "unreadable"],
)
def test_a_requeue_file_that_cannot_be_opened(
    host: Host,
    python: Path,
    place: Path,
    requeue: Path,
    damage: Callable[[Path], None],
    why: str,
) -> None:
    """It is there: the job must not silently begin from its beginning."""
    damage(requeue)
    run = host.run(from_place(python, place, AGAIN))
    assert refused(run) == f"cr: couldn't requeue from a checkpoint: {requeue}: {why}"


def test_a_user_whom_the_system_does_not_know(
    host: Host, python: Path, place: Path, requeue: Path
) -> None:
    """Said in slurmstepd's log; the script itself is no business of this."""
    unknown = max(each.pw_uid for each in pwd.getpwall() if each.pw_uid < 65000) + 1
    assert subprocess.run(["getent", "passwd", str(unknown)], stdout=-3).returncode
    lines = from_place(python, place, AGAIN)
    lines[lines.index(BATCH[-1])] = f"item uid {unknown}"
    run = host.run([*lines[:-1], f"task {unknown}"])
    assert run.errors == ["cr: couldn't learn whose job this is"]
    assert run.status == 0
    assert "command" in run.lines
    assert set(run.capabilities.values()) == {0}


# ---- sbatch --cr: the newest generation, at whatever start --------------------------------------


def test_newest_is_for_jobs_submitted_with_cr(
    host: Host, python: Path, place: Path, requeue: Path, generation: Path
) -> None:
    """For these it comes before what `pycr requeue` has left; for others it is not there."""
    newest = place / "newest"
    newest.mkdir(0o755)
    (newest / "orders").write_text("exit 0", encoding="ascii")
    file = requeue.with_name("newest")
    file.write_text(f"{newest}\n", encoding="utf-8")
    os.chown(file, WHO.pw_uid, WHO.pw_gid)
    directory = f"checkpoint-dir={place}"
    lines = script(python, AGAIN, options=(directory, "cr"))
    assert restored(host.run(lines))[10] == str(newest)
    assert restored(host.run(from_place(python, place, AGAIN)))[10] == str(generation)
    file.unlink()
    assert restored(host.run(lines))[10] == str(generation)
    requeue.unlink()
    went_on(host.run(lines))


def test_the_first_start_of_a_number_that_comes_again(
    host: Host, python: Path, place: Path, requeue: Path
) -> None:
    """Of any job: an earlier job's files are not what it goes on from later, and the journal has a
    line. Another user's journal, and what is no file, is left alone."""
    newest = requeue.with_name("newest")
    newest.write_bytes(requeue.read_bytes())
    journals = place / ".journal"
    journals.mkdir()
    for path in (place, requeue.parent, journals):
        os.chown(path, WHO.pw_uid, WHO.pw_gid)
    book = Journal(place, 7, WHO.pw_uid)
    book.path.write_bytes(b'{"time": 1, "event": "committed"}\n{"time": 2, "ev')
    cr = script(python, f"arg checkpoint_dir={place}", options=("cr",))
    went_on(host.run(cr))  # root's
    assert b"first" not in book.path.read_bytes()
    os.chown(book.path, WHO.pw_uid, WHO.pw_gid)
    for path in (newest, requeue):
        path.write_text(f"{place / 'generation'}\n", encoding="utf-8")
        os.chown(path, WHO.pw_uid, WHO.pw_gid)
    plain = script(python, f"arg checkpoint_dir={place}")
    went_on(host.run(plain))
    went_on(host.run([*plain[:-1], AGAIN, plain[-1]]))
    assert not newest.exists() and not requeue.exists() and len(book.every()) == 2
    newest.touch()
    went_on(host.run(cr))
    assert not newest.exists()
    assert [each["event"] for each in book.events()] == ["first"]
    assert abs(book.events()[0]["time"] - time.time()) < 60
    assert [each["event"] for each in book.every()] == ["committed", "first", "first"]
    went_on(host.run([*cr[:-1], AGAIN, cr[-1]]))
    assert len(book.every()) == 3
    book.path.unlink()
    book.path.symlink_to(place / "elsewhere")
    went_on(host.run(cr))
    assert not (place / "elsewhere").exists()


def test_steps_are_counted_where_nobody_could_know(host: Host, python: Path) -> None:
    """In a file of another name each time; and what an outer script was given is not this one's."""
    outer = [f"jobenv SLURM_CR_{each}" for each in ("BATCH=6:/tmp/x", "SKIP_DONE=1", "KEEP=1")]
    told = set()
    for more in ((), outer):
        run = host.run(script(python, *more))
        went_on(run)
        (place,) = (each for each in run.all("spank_setenv") if each.startswith("SLURM_CR_BATCH="))
        assert re.fullmatch(r"SLURM_CR_BATCH=7:/tmp/srun_cr-steps\.7\.[0-9a-f]{16} 1", place)
        told.add(place)
        assert ("SLURM_CR_SKIP_DONE" in run.all("spank_unsetenv")) is bool(more)
    assert len(told) == 2
