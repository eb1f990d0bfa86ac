# SPDX-License-Identifier: GPL-2.0-or-later
"""srun --cr: srun_cr in this process's place, srun again as its child, as the shell started it."""

from __future__ import annotations

import json
import shutil
import signal
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from .conftest import HERE, plain_python
from .driver import GLIBCS, USER, Host, Run

HOOKS = ["call init", "option cr", "call init_post_opt"]
# What the child does: the host that the plugin starts again reads on where the first one stopped.
CHILD = ["hex /proc/self/cmdline", "hex /proc/self/environ", "hex /proc/self/status"]
CHILD += ["hex /proc/self/stat"]


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    """The arguments for plugstack.conf that name the fake srun_cr and its interpreter."""
    wrapper = tmp_path / "srun_cr"
    wrapper.touch()
    python = tmp_path / "python3"
    source = (HERE / "wrapper.py").read_text(encoding="utf-8")
    python.write_text(f"#!{plain_python()} -I\n{source}", encoding="utf-8")
    python.chmod(0o755)
    return [f"arg python={python}", f"arg srun_cr={wrapper}"]


def script(settings: Sequence[str], context: str = "local") -> list[str]:
    return [f"context {context}", *settings, *HOOKS]


def wrapped(run: Run) -> dict[str, Any]:
    """Return what the fake srun_cr said, which ended with a status of its own."""
    assert run.returncode == 5, run.lines
    assert not run.errors
    report: dict[str, Any] = json.loads(run.one("wrapper"))
    assert report["pid"] == run.pid
    assert report["ended"] == 0
    return report


def child_file(run: Run, name: str) -> bytes:
    return bytes.fromhex(run.one(f"/proc/self/{name}"))


def bits(*numbers: int) -> int:
    return sum(1 << (number - 1) for number in numbers)


def test_both_get_the_shells_words(host: Host, settings: list[str]) -> None:
    words = ["--cr", "-n", "2", "", "a b", "ends\nhere", "*", "--", "\udcff"]
    run = host.run([*script(settings), *CHILD], args=words, env={"A": "1"})
    given = [str(host.plugin).encode()] + [
        word.encode("utf-8", "surrogateescape") for word in words
    ]
    wrapper = settings[1].partition("=")[2]
    assert child_file(run, "cmdline").split(b"\0")[:-1] == [b"srun", *given]
    assert [bytes.fromhex(each) for each in wrapped(run)["argv"]] == [
        *(b"-I", b"-S", wrapper.encode()),
        *given,
    ]


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_both_get_the_shells_environment(host: Host, settings: list[str], count: int) -> None:
    """None at all, one, and more than the buffer first made for it; not what srun has added."""
    env = {f"V{number}": "x" * 20 for number in range(count)}
    before = ["setenv SRUNS_OWN=1", "unsetenv V0"]
    run = host.run([*before, *script(settings), *CHILD], env=env)
    given = [f"{key}={value}" for key, value in env.items()]
    report = wrapped(run)
    path = report["told"]["SOCKET"]
    assert child_file(run, "environ").decode().split("\0")[:-1] == [
        *given,
        f"SLURM_SRUN_CR_SOCKET={path}",
    ]
    told = {each.partition("=")[0] for each in report["environ"][count:]}
    assert report["environ"][:count] == given
    assert told == {
        f"SRUN_CR_{name}" for name in ["SRUN", "SOCKET", "CHILD", "LISTENER", "TERMINAL", "IGNORED"]
    }


def test_the_wrapper_is_told_its_child(host: Host, settings: list[str]) -> None:
    run = host.run([*script(settings), *CHILD], env={"A": "1"})
    report = wrapped(run)
    pid, _, _, parent, group = child_file(run, "stat").split()[:5]
    assert report["told"]["SRUN"] == str(host.program)
    assert report["told"]["CHILD"] == pid.decode()
    assert report["told"]["TERMINAL"] == "0"
    assert int(parent) == run.pid
    assert group == pid != str(report["pgrp"]).encode()


def test_the_child_gets_the_terminal(host: Host, settings: list[str]) -> None:
    """Where srun was in the foreground: it reads stdin, and ^C and ^Z are for it."""
    run = host.run([*script(settings), *CHILD], env={"A": "1"}, terminal=True)
    report = wrapped(run)
    _, _, _, _, group, _, _, foreground = child_file(run, "stat").split()[:8]
    assert foreground == group
    assert report["told"]["TERMINAL"] == "1"


def test_the_wrapper_listens_for_its_child(host: Host, settings: list[str]) -> None:
    frame = ["context local", "item job 7", "item step 0", "layout n0", "call init"]
    run = host.run([*script(settings), *frame, "call local_user_init"], env={"A": "1"})
    report = wrapped(run)
    assert bytes.fromhex(report["frame"]) == struct.pack("=IIi", 7, 0, 2) + b"n0\0"
    assert report["mode"] == 0o700
    assert report["told"]["SOCKET"].startswith("/tmp/srun_cr.")
    assert not Path(report["told"]["SOCKET"]).parent.exists()


def test_both_get_the_shells_signals(host: Host, settings: list[str]) -> None:
    """Blocked by srun is not blocked by the shell; what is set after slurm_spank_init is srun's."""
    ignored = (signal.SIGHUP, signal.SIGXFSZ)
    blocked = (signal.SIGTSTP, signal.SIGRTMIN)
    names = ["INT", "QUIT", "CONT", "TERM", "HUP", "ALRM", "USR1", "USR2", "PIPE", "WINCH"]
    sruns = [signal.Signals[f"SIG{name}"] for name in names]
    first = [f"ignore {each.value}" for each in ignored]
    first += [f"block {each.value}" for each in (*blocked, *sruns)]
    later = [f"ignore {signal.SIGUSR1.value}", f"block {signal.SIGXCPU.value}"]
    lines = script(settings)
    run = host.run([*first, *lines[:-1], *later, lines[-1], *CHILD], env={"A": "1"})
    report = wrapped(run)
    status = dict(line.split(":\t") for line in child_file(run, "status").decode().splitlines())
    assert int(status["SigBlk"], 16) == bits(*blocked)
    assert int(status["SigIgn"], 16) & ~GLIBCS == bits(*ignored)
    # The wrapper's start: no signal may end it before it has its handlers. Python itself ignores
    # SIGPIPE and SIGXFSZ.
    uncatchable = bits(signal.SIGKILL, signal.SIGSTOP)
    assert report["signals"]["SigBlk"] & (1 << 31) - 1 == (1 << 31) - 1 & ~uncatchable
    assert report["signals"]["SigIgn"] & ~GLIBCS == bits(*ignored, signal.SIGPIPE)
    flags = "".join("1" if number in ignored else "0" for number in range(1, 65))
    assert report["told"]["IGNORED"] == flags


def test_under_srun_cr_srun_goes_on(host: Host, settings: list[str]) -> None:
    run = host.run(script(settings), env={"SLURM_SRUN_CR_SOCKET": "/s"})
    assert run.all("return") == ["init 0", "init_post_opt 0"]
    assert run.returncode == 0


def test_without_cr_srun_goes_on(host: Host, settings: list[str]) -> None:
    run = host.run([line for line in script(settings) if line != "option cr"])
    assert run.all("return") == ["init 0", "init_post_opt 0"]
    assert run.returncode == 0


@pytest.mark.parametrize("name", ["sbatch", "salloc"])
def test_sbatch_and_salloc_do_not_wrap(host: Host, settings: list[str], name: str) -> None:
    run = host.run(script(settings, "allocator"), name=name)
    assert run.all("return") == ["init 0", "init_post_opt 0"]
    assert run.returncode == 0


@pytest.mark.parametrize("which", [0, 1])
def test_says_what_is_missing(host: Host, settings: list[str], which: int) -> None:
    path = Path(settings[which].partition("=")[2])
    path.unlink()
    assert host.run(script(settings)).refused() == (
        f"cr: couldn't execute {path}: No such file or directory"
    )


def test_says_that_the_interpreter_is_not_executable(host: Host, settings: list[str]) -> None:
    path = Path(settings[0].partition("=")[2])
    path.chmod(0o644)
    assert host.run(script(settings)).refused() == f"cr: couldn't execute {path}: Permission denied"


def test_the_wrapper_is_found_beside_the_plugin(host: Host, settings: list[str]) -> None:
    """PREFIX/lib/slurm/spank_cr.so has PREFIX/bin/srun_cr."""
    prefix = host.plugin.parents[2]
    assert host.run(script(settings[:1])).refused() == (
        f"cr: couldn't execute {prefix}/bin/srun_cr: No such file or directory"
    )


# ---- in a job, where srun must not be below srun_cr ----------------------------------------------

JOB = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"}


def test_in_a_job_the_wrapper_starts_srun_itself(host: Host, settings: list[str]) -> None:
    run = host.run(script(settings), args=["--cr", "a b"], env={**JOB, "A": "1"})
    assert run.returncode == 5, run.lines
    assert not run.errors
    report = json.loads(run.one("wrapper"))
    assert report["pid"] == run.pid
    assert report["children"] == []
    wrapper = settings[1].partition("=")[2]
    assert [bytes.fromhex(each).decode() for each in report["argv"]] == [
        *("-I", "-S", wrapper, str(host.plugin), "--cr", "a b")
    ]
    assert report["told"] == {"SRUN": str(host.program)}
    given = [f"{key}={value}" for key, value in JOB.items()]
    assert report["environ"] == [*given, "A=1", f"SRUN_CR_SRUN={host.program}"]


def test_in_a_job_the_wrapper_gets_the_shells_signals(host: Host, settings: list[str]) -> None:
    """Blocked by srun is not blocked by the shell; beside these Python itself ignores SIGPIPE."""
    ignored = (signal.SIGHUP, signal.SIGCHLD, signal.SIGXFSZ)
    first = [f"ignore {each.value}" for each in ignored]
    first += [f"block {each.value}" for each in (signal.SIGTSTP, signal.SIGINT)]
    lines = script(settings)
    later = [f"ignore {signal.SIGUSR1.value}", f"block {signal.SIGXCPU.value}"]
    run = host.run([*first, *lines[:-1], *later, lines[-1]], env=JOB)
    signals = json.loads(run.one("wrapper"))["signals"]
    assert signals["SigBlk"] == bits(signal.SIGTSTP)
    assert signals["SigIgn"] & ~GLIBCS == bits(*ignored, signal.SIGPIPE)


def test_in_a_job_an_outer_srun_crs_words_are_dropped(host: Host, settings: list[str]) -> None:
    env = {**JOB, "SRUN_CR_CHILD": "1", "SRUN_CR_SRUN": "/evil", "SRUN_CR_SOCKET": "/s"}
    run = host.run(script(settings), env=env)
    assert json.loads(run.one("wrapper"))["told"] == {"SRUN": str(host.program)}


@pytest.mark.parametrize("name", JOB)
def test_half_of_a_job_is_none(host: Host, settings: list[str], name: str) -> None:
    """SLURM_JOB_ID alone is what salloc gives a shell, on a node that may be no job's."""
    report = wrapped(host.run([*script(settings), *CHILD], env={name: JOB[name]}))
    assert "CHILD" in report["told"]


def test_in_a_job_with_a_terminal_it_is_as_outside(host: Host, settings: list[str]) -> None:
    """A terminal is never part of a checkpoint."""
    report = wrapped(host.run([*script(settings), *CHILD], env=JOB, terminal=True))
    assert report["told"]["TERMINAL"] == "1"


def test_in_a_job_it_says_that_the_interpreter_does_not_start(
    host: Host, settings: list[str]
) -> None:
    path = Path(settings[0].partition("=")[2])
    path.write_bytes(b"\x7fELF")
    run = host.run(script(settings), env=JOB)
    assert run.refused() == f"cr: couldn't execute {path}: Exec format error"


def left_behind() -> list[Path]:
    """Return and remove what the unprivileged user left in /tmp."""
    left = []
    for each in Path("/tmp").glob("srun_cr.*"):
        with suppress(FileNotFoundError):  # another test's
            left += [each] if each.stat().st_uid == USER else []
    for each in left:
        shutil.rmtree(each)
    return left


def test_says_that_the_interpreter_does_not_start(host: Host, root: None, place: Path) -> None:
    """The srun that was started beside it is stopped, and nothing is left."""
    for name in ("python3", "srun_cr"):
        (place / name).write_bytes(b"\x7fELF")
        (place / name).chmod(0o755)
    settings = [f"arg python={place}/python3", f"arg srun_cr={place}/srun_cr"]
    run = host.run([f"user {USER}", *script(settings)], env={"A": "1"})
    assert not left_behind()
    assert run.returncode == 1
    assert run.errors == [f"cr: couldn't execute {place}/python3: Exec format error"]


def test_says_that_it_cannot_fork(host: Host, root: None, place: Path) -> None:
    for name in ("python3", "srun_cr"):
        (place / name).touch(0o755)
    settings = [f"arg python={place}/python3", f"arg srun_cr={place}/srun_cr"]
    run = host.run([f"user {USER}", "nofork", *script(settings)], env={"A": "1"})
    left = left_behind()
    assert run.refused() == "cr: couldn't fork: Resource temporarily unavailable"
    assert not left


@pytest.mark.parametrize(
    ("hidden", "message"),
    [("/tmp", "couldn't make a socket in /tmp"), ("/proc", "couldn't read /proc/self")],
)
def test_says_what_it_cannot_do_without(
    host: Host, root: None, place: Path, hidden: str, message: str
) -> None:
    for name in ("python3", "srun_cr"):
        (place / name).touch(0o755)
    settings = [f"arg python={place}/python3", f"arg srun_cr={place}/srun_cr"]
    run = host.run([f"hide {hidden}", *script(settings)], env={"A": "1"})
    assert run.refused() == f"cr: --cr: {message}"
