# SPDX-License-Identifier: GPL-2.0-or-later
"""A restart's task: the pod in its own namespaces, and the parent that Slurm knows as the task."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pycr import protocol
from tests.login import until

from .driver import (
    CAP_CHECKPOINT_RESTORE,
    CAP_SETPCAP,
    GLIBCS,
    STEP,
    USER,
    Host,
    Run,
    Running,
    capabilities,
    ended,
    proc_status,
)

FAILED = 125 << 8  # errors.py: RESTORE_FAILED, as a wait status
pytestmark = pytest.mark.usefixtures("root")


def script(python: Path, place: Path, orders: str, *more: str) -> list[str]:
    """The lines of a restart from a directory in which the fake helper finds its orders."""
    (place / "orders").write_text(orders, encoding="ascii")
    words = [f"arg python={python}", "call init", f"option restart-dir={place}"]
    return [*STEP, *more, *words, f"task {USER}"]


def pod(host: Host, python: Path, place: Path, *more: str) -> dict[str, Any]:
    """Return how a pod was started that ends at once."""
    run = host.run(script(python, place, "exit 0", *more))
    assert run.status == 0, run.lines
    assert not run.errors
    return run.helper


def started(running: Running) -> tuple[int, int]:
    """Wait until the fake helper runs; return the parent's pid and the pod's."""
    parent = int(running.until("task"))
    report = json.loads(running.until("helper"))
    assert report["pid"] == 1
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
    assert len(children) == 1
    return parent, int(children[0])


def is_null(descriptor: Path) -> bool:
    return os.readlink(descriptor) == "/dev/null"


def test_its_words(host: Host, python: Path, place: Path) -> None:
    argv = pod(host, python, place)["argv"]
    assert argv[:12] == ["-I", "-m", "pycr.pod", "7", "3", "5", "1", "8", "n1", "", "0", "1024"]
    directory, ctl, status, address, variables, script_file, requeued = argv[12:19]
    private, listener, files = argv[19:]
    assert directory == str(place)
    assert len({ctl, status, variables, private, listener}) == 5
    assert re.fullmatch(r"pycr-[0-9a-f]{16}", address)
    assert (script_file, requeued) == ("", "0")  # it is no batch script
    assert files == "cut"
    line = [str(python), *argv]
    assert protocol.pod_address(line) == address
    assert protocol.pod_script(line) == ""


def test_it_is_told_what_to_do_about_files(host: Host, python: Path, place: Path) -> None:
    *before, task = script(python, place, "exit 0")
    run = host.run([*before, "option files=keep", task])
    assert run.helper["argv"][-1] == "keep"


def test_memory_ends_it_no_sooner_than_the_task_it_is(
    host: Host, python: Path, place: Path
) -> None:
    before = int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii"))
    assert pod(host, python, place)["oom"] == before


def test_its_socket_has_another_name_each_time(host: Host, python: Path, place: Path) -> None:
    names = {pod(host, python, place)["argv"][-7] for _ in range(3)}
    assert len(names) == 3


def test_its_environment_is_made_from_nothing(host: Host, python: Path, place: Path) -> None:
    report = pod(host, python, place, "setenv LD_PRELOAD=/evil", "setenv PYTHONPATH=/evil")
    assert [each.partition("=")[0] for each in report["environ"]] == ["PATH", "LC_ALL"]


def test_what_it_holds(host: Host, python: Path, place: Path) -> None:
    report = pod(host, python, place, "open 9", "open 200")
    _, ctl, status, _, variables, _, _, private, listener, _ = report["argv"][-10:]
    fds = report["fds"]
    assert sorted(fds) == sorted(["0", "1", "2", ctl, status, variables, private, listener])
    assert fds[variables] == "/memfd:pycr-environment (deleted)"
    assert fds[private] == "/"  # mounted nowhere
    assert fds[listener].startswith("socket:")
    assert fds[ctl].startswith("pipe:")
    assert fds[status].startswith("pipe:")
    assert fds[ctl] != fds[status]


def test_it_is_the_first_process_of_its_namespace(host: Host, python: Path, place: Path) -> None:
    report = pod(host, python, place)
    assert report["pid"] == report["sid"] == 1
    assert report["processes"] == [1]
    for name, own in report["namespaces"].items():
        assert own != os.readlink(f"/proc/self/ns/{name}")


def test_its_mounts_are_not_seen_outside(host: Host, python: Path, place: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    with host.running(script(python, place, "wait")) as running:
        started(running)
        assert Path("/proc/self/mountinfo").read_text(encoding="utf-8") == before


@pytest.mark.parametrize("ptrace", ["no", "yes"])
def test_its_capabilities(host: Host, python: Path, place: Path, ptrace: str) -> None:
    """No CAP_SYS_ADMIN, no CAP_SYS_PTRACE; CAP_SETPCAP where the bounding set lacks one."""
    status = pod(host, python, place, f"arg ptrace={ptrace}")["status"]
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))
    whole = (1 << last + 1) - 1
    wanted = CAP_CHECKPOINT_RESTORE
    if int(proc_status(os.getpid())["CapBnd"], 16) != whole:
        wanted |= CAP_SETPCAP
    assert capabilities(status) == dict.fromkeys(["CapInh", "CapPrm", "CapEff", "CapAmb"], wanted)


def test_it_is_the_user_and_may_gain_privileges(host: Host, python: Path, place: Path) -> None:
    """A restored task inherits no_new_privs, so it is set only beside CAP_SETPCAP."""
    status = pod(host, python, place)["status"]
    assert status["Uid"].split() == status["Gid"].split() == [str(USER)] * 4
    held = int(status["CapPrm"], 16) & CAP_SETPCAP
    assert status["NoNewPrivs"] == ("1" if held else "0")


def test_it_gets_no_signal_state(host: Host, python: Path, place: Path) -> None:
    """But for SIGPIPE and SIGXFSZ, which Python ignores in its own start."""
    status = pod(host, python, place, "ignore 1", "ignore 10", "block 15", "block 40")["status"]
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigIgn"], 16) & ~(GLIBCS | 1 << 12 | 1 << 24) == 0


def test_its_parent_keeps_nothing(host: Host, python: Path, place: Path) -> None:
    with host.running(script(python, place, "wait", "open 9", "open 200")) as running:
        parent, _ = started(running)
        fds = Path(f"/proc/{parent}/fd")
        # It goes on beside the pod: this is the last that it does before it waits.
        until("it to wait", lambda: len(os.listdir(fds)) == 5 and is_null(fds / "2"))
        status = proc_status(parent)
        assert set(capabilities(status).values()) == {0}
        assert status["Uid"].split() == [str(USER)] * 4
        assert Path(f"/proc/{parent}/comm").read_text(encoding="ascii") == "pycr-pod\n"
        # What is not dumpable belongs to root in /proc: the user may not look into it.
        assert Path(f"/proc/{parent}/maps").stat().st_uid == 0
        assert all(is_null(fds / each) for each in "012")


def test_a_signal_becomes_a_byte(host: Host, python: Path, place: Path) -> None:
    signals = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGTSTP, signal.SIGRTMAX]
    with host.running(script(python, place, f"read {len(signals)}\nexit 4")) as running:
        parent, _ = started(running)
        for each in signals:
            os.kill(parent, each)
            assert json.loads(running.until("byte")) == [each]
        assert running.end() == 4 << 8


def test_a_false_sigchld_is_no_end(host: Host, python: Path, place: Path) -> None:
    with host.running(script(python, place, "read 1\nexit 6")) as running:
        parent, _ = started(running)
        os.kill(parent, signal.SIGCHLD)
        os.kill(parent, signal.SIGTERM)
        assert json.loads(running.until("byte")) == [signal.SIGTERM]
        assert running.end() == 6 << 8


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_the_pods_own_exit_is_mirrored(host: Host, python: Path, place: Path, code: int) -> None:
    assert host.run(script(python, place, f"exit {code}")).status == code << 8


@pytest.mark.parametrize("code", [0, 7])
def test_the_tasks_exit_wins(host: Host, python: Path, place: Path, code: int) -> None:
    run = host.run(script(python, place, f"status {code << 8}\nexit 9"))
    assert run.status == code << 8


@pytest.mark.parametrize("core", [0, 128])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL, 40])
def test_the_tasks_signal_is_mirrored_without_a_core(
    host: Host, python: Path, place: Path, number: int, core: int
) -> None:
    run = host.run(script(python, place, f"status {number | core}\nexit 0"))
    assert run.status == number


def test_a_status_that_is_none_is_a_failure(host: Host, python: Path, place: Path) -> None:
    stopped = signal.SIGSTOP << 8 | 0x7F
    assert host.run(script(python, place, f"status {stopped}\nexit 0")).status == FAILED


def test_a_killed_pod_is_a_killed_task(host: Host, python: Path, place: Path) -> None:
    with host.running(script(python, place, "wait")) as running:
        _, first = started(running)
        os.kill(first, signal.SIGKILL)
        assert running.end() == signal.SIGKILL


def test_a_killed_parent_takes_the_pod_with_it(host: Host, python: Path, place: Path) -> None:
    with host.running(script(python, place, "stay")) as running:
        parent, first = started(running)
        pidfd = os.pidfd_open(first)
        try:
            os.kill(parent, signal.SIGKILL)
            assert running.end() == signal.SIGKILL
            assert ended(pidfd)
        finally:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


def test_sigchld_ignored_by_slurmstepd_is_no_hindrance(
    host: Host, python: Path, place: Path
) -> None:
    """A process that ignores SIGCHLD never hears of its child's end (wait(2), notes)."""
    lines = script(python, place, "exit 3", f"ignore {signal.SIGCHLD.value}")
    assert host.run(lines).status == 3 << 8


@contextmanager
def while_stopped(parent: int) -> Iterator[None]:
    """Stop the pod's parent, so that what happens meanwhile is there at once when it goes on."""
    os.kill(parent, signal.SIGSTOP)
    until("it to stop", lambda: proc_status(parent)["State"][0] == "T")
    yield
    os.kill(parent, signal.SIGCONT)


def test_a_signal_to_a_pod_that_has_ended_is_lost(host: Host, python: Path, place: Path) -> None:
    """The pipe is broken then, and its SIGPIPE is no signal to forward in turn."""
    with host.running(script(python, place, "wait")) as running:
        parent, first = started(running)
        pidfd = os.pidfd_open(first)
        try:
            with while_stopped(parent):
                os.kill(first, signal.SIGKILL)
                assert ended(pidfd)
                os.kill(parent, signal.SIGTERM)
            assert running.end() == signal.SIGKILL
        finally:
            os.close(pidfd)


def test_a_late_signal_does_not_change_the_end(host: Host, python: Path, place: Path) -> None:
    with host.running(script(python, place, f"status {signal.SIGSEGV.value}\nwait")) as running:
        parent, first = started(running)
        running.until("wrote")
        pidfd = os.pidfd_open(first)
        try:
            with while_stopped(parent):
                os.kill(first, signal.SIGKILL)
                assert ended(pidfd)
                # Of two pending signals sigwaitinfo(2) gives the lower one first: SIGCHLD.
                os.kill(parent, signal.SIGXCPU)
            assert running.end() == signal.SIGSEGV
        finally:
            os.close(pidfd)


def failed(run: Run) -> str:
    """Return why the task ended; the user's command must not run in its place."""
    assert run.status == FAILED, run.lines
    assert "command" not in run.lines
    assert len(run.errors) == 1
    return run.errors[0]


def test_refuses_a_step_of_root(host: Host, python: Path, place: Path) -> None:
    lines = script(python, place, "exit 0")
    why = failed(host.run([*lines[:-1], "task 0"]))
    assert why == "cr: couldn't checkpoint or restart: not for steps of root"


def test_refuses_an_interpreter_it_cannot_trust(host: Host, python: Path, place: Path) -> None:
    (place / "python3").symlink_to(python)
    os.lchown(place / "python3", USER, USER)
    why = failed(host.run(script(place / "python3", place, "exit 0")))
    assert why == (
        f"cr: couldn't trust the helper's interpreter: {place}/python3: does not belong to root"
    )


@pytest.mark.parametrize(
    ("denied", "what"),
    [("newpid", "make the pod's namespaces"), ("mount", "mount the pod's /proc")],
)
def test_says_what_it_cannot_have(
    host: Host, python: Path, place: Path, denied: str, what: str
) -> None:
    why = failed(host.run(script(python, place, "exit 0", f"deny {denied}")))
    assert why == f"cr: couldn't {what}: No space left on device"


def test_the_helper_wins_over_a_restart(host: Host, python: Path, place: Path) -> None:
    """srun refuses both together; in slurmstepd the one with fewer capabilities is taken."""
    lines = script(python, place, "exit 0")
    run = host.run([*lines[:-1], "option cr-helper=7.0", lines[-1]])
    assert run.helper["argv"][2] == "pycr.node"
