# SPDX-License-Identifier: GPL-2.0-or-later
"""srun_cr is srun: same arguments, same signals, same end, and nothing of its own left behind.

What it does with signals is in test_srun_cr_signals.py, with a terminal in
test_srun_cr_tty.py, with its socket in test_srun_cr_socket.py.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.login import Login
from tests.slurm.processes import children, status, wrapper

SHOW_ARGV = "import json, sys; print(json.dumps(sys.argv[1:]))"
ODD_ARGUMENTS = [
    "plain",
    "",
    "two words",
    "  blanks  around  ",
    "a'b\"c\\d",
    "new\nline",
    "tab\there",
    "$HOME `id` $(id) *",
    "--cr",
    "--",
    "-N9",
    "größe",
    "",
]
WAIT_STATUS = """
import json, os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))
status = os.waitpid(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ), 0)[1]
print(json.dumps([os.WIFSIGNALED(status) and os.WTERMSIG(status), os.WCOREDUMP(status)]))
"""


@pytest.fixture
def tmp(cluster: Any) -> Callable[[str], list[str]]:
    """List what srun_cr may leave in a node's /tmp."""

    def names(node: str = "n0") -> list[str]:
        return sorted(
            path.name
            for path in Path(f"/proc/{cluster.state.pid(node)}/root/tmp").glob("srun_cr.*")
        )

    return names


@pytest.mark.parametrize("command", [["srun", "--cr"], ["srun_cr"], ["srun_cr", "--cr"]])
def test_arguments_arrive_as_they_are(alice: Login, command: list[str]) -> None:
    done = alice.run(*command, "-n1", "python3", "-c", SHOW_ARGV, *ODD_ARGUMENTS)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ODD_ARGUMENTS
    assert done.stderr == ""


def test_srun_gets_the_arguments_and_the_environment_but_for_the_socket(alice: Login) -> None:
    tool = "import json, os, sys; print(json.dumps([sys.argv, dict(os.environ)]))"
    fake = alice.place / "srun"
    fake.write_text(f"#!/usr/bin/python3\n{tool}\n")
    fake.chmod(0o755)
    path = f"{alice.dir}:/usr/bin:/bin:/opt/pycr/bin"
    plain = alice.run("srun", *ODD_ARGUMENTS, env={"PATH": path})
    wrapped = alice.run("srun_cr", *ODD_ARGUMENTS, env={"PATH": path})
    (_, *argv), environment = json.loads(plain.stdout)
    (_, *wrapped_argv), wrapped_environment = json.loads(wrapped.stdout)
    assert wrapped_argv == argv == ODD_ARGUMENTS
    socket = wrapped_environment.pop("SLURM_SRUN_CR_SOCKET")
    assert re.fullmatch(r"/tmp/srun_cr\.\w+/socket", socket)
    assert wrapped_environment == environment


@pytest.mark.parametrize("number", [0, 1, 7, 125, 255])
def test_exit_status(alice: Login, number: int) -> None:
    done = alice.run("srun", "--cr", "-n2", "-N2", "sh", "-c", f"exit $((SLURM_PROCID * {number}))")
    assert done.returncode == number, done.stderr


@pytest.mark.parametrize("name", ["KILL", "SEGV"])
def test_status_of_a_killed_task(alice: Login, name: str) -> None:
    script = ("-n1", "bash", "-c", f"kill -{name} $$")
    plain, wrapped = alice.run("srun", *script), alice.run("srun", "--cr", *script)
    assert wrapped.returncode == plain.returncode == 128 + signal.Signals[f"SIG{name}"]


@pytest.mark.parametrize("name", ["SEGV", "KILL", "ABRT", "TERM", "INT", "RTMIN"])
def test_dies_by_the_signal_srun_died_of_without_a_core(alice: Login, name: str) -> None:
    number = getattr(signal, f"SIG{name}")
    fake = alice.place / "srun"
    fake.write_text(f"#!/bin/bash\nulimit -c 0\nkill -{number:d} $$\n")
    fake.chmod(0o755)
    path = f"{alice.dir}:/usr/bin:/bin:/opt/pycr/bin"
    done = alice.run("python3", "-c", WAIT_STATUS, "srun_cr", "-n1", env={"PATH": path})
    assert json.loads(done.stdout) == [number, False], done.stderr
    assert not list(alice.place.glob("core*"))


def test_srun_not_found(alice: Login) -> None:
    done = alice.sh("PATH=/nowhere /opt/pycr/bin/srun_cr -n1 true")
    assert done.returncode == 127
    assert "couldn't execute srun: No such file" in done.stderr


def test_nested_srun_in_a_task_and_no_variable_for_tasks(alice: Login) -> None:
    script = "env | grep -E 'SRUN_CR|RESTART_DIR'; exec srun --cr --overlap -n1 sh -c 'env; exit 4'"
    done = alice.run("srun", "--cr", "-n1", "--overlap", "sh", "-c", script)
    assert done.returncode == 4, done.stderr
    assert "SLURM_STEP_ID=1\n" in done.stdout
    assert not [line for line in done.stdout.splitlines() if "SRUN_CR" in line]
    assert "srun_cr:" not in done.stderr


@pytest.mark.parametrize(
    "env",
    [
        {"SLURM_SRUN_CR_SOCKET": "/tmp/srun_cr.gone/socket"},
        {"SLURM_SRUN_CR_SOCKET": "/" + "x" * 200},
        {"SRUN_CR_CHILD": "1", "SRUN_CR_LISTENER": "2", "SRUN_CR_SOCKET": "/etc/passwd"},
    ],
    ids=["dead socket", "long socket", "another's variables"],
)
def test_no_endless_reexecution_and_no_harm_from_odd_variables(
    alice: Login, env: dict[str, str]
) -> None:
    for command in (["srun", "--cr"], ["srun_cr"]):
        done = alice.run(*command, "-n1", "echo", "once", env=env, timeout=60)
        assert (done.returncode, done.stdout) == (0, "once\n"), done.stderr


def test_one_wrapper_whatever_is_said_twice(alice: Login) -> None:
    process = alice.popen("srun_cr", "--cr", "--cr", "-n1", "sleep", "60")
    pid, srun = wrapper(process)
    alice.step()
    assert [status(child, "Name") for child in children(pid)] == ["srun"]
    assert {status(child, "Name") for child in children(srun)} <= {"srun", ""}  # it may end
    os.kill(pid, signal.SIGTERM)
    process.communicate(timeout=20)


def test_without_the_plugin_it_says_so_once_and_the_step_runs(
    cluster: Any, login: Callable[..., Login]
) -> None:
    node, alice = cluster.node("n3"), login("alice", "n3")
    conf = "/etc/slurm/plugstack.conf"
    node.run(["sed", "-i", "s/^optional/# optional/", conf], check=True)
    try:
        # Up to 25.05 srun sends a frame by itself, so only what takes a second is looked into.
        done = alice.run("srun_cr", "-n1", "-wn3", "sh", "-c", "sleep 1.5; echo out; exit 3")
        by_option = alice.run("srun", "--cr", "-n1", "true")
    finally:
        node.run(["sed", "-i", "s/^# optional/optional/", conf], check=True)
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("srun_cr: the spank_cr plugin is not enabled") == 1
    assert done.stdout == "out\n"
    assert by_option.returncode != 0
    assert "--cr" in by_option.stderr
    assert alice.run("srun", "--cr", "-n1", "true").stderr == ""


def test_fifty_at_once_leave_nothing(alice: Login, tmp: Callable[[str], list[str]]) -> None:
    before = tmp("n0")
    script = """
        for i in $(seq 50); do srun --cr -n1 --mem=10 sh -c "exit $((i % 7))" &
            pids="$pids $!"
        done
        for pid in $pids; do wait $pid; printf '%s ' $?; done
    """
    done = alice.sh(script, timeout=300)
    assert done.stdout.split() == [str(i % 7) for i in range(1, 51)], done.stderr[-2000:]
    assert "srun_cr" not in done.stderr
    assert set(tmp("n0")) <= set(before)


def test_sbatch_and_salloc_take_the_option(alice: Login) -> None:
    script = "#!/bin/sh\nsrun -n1 sh -c 'exit 6'\n"
    done = alice.run("sbatch", "--cr", "--wait", "-n1", "-o", f"{alice.dir}/out", input=script)
    assert done.returncode == 6, done.stderr + alice.read("out")
    assert "error: n" in alice.read("out")
    done = alice.run("salloc", "--cr", "-n1", "srun", "echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


@pytest.mark.parametrize("command", ["srun", "sbatch", "salloc", "srun_cr"])
def test_help_shows_the_options(alice: Login, command: str) -> None:
    shown = alice.run(command, "--help").stdout
    assert re.search(r"--cr\s+run the step under srun_cr", shown)
    for option in ("--checkpoint=TIME", "--checkpoint-dir=DIR", "--restart-dir=DIR"):
        assert option in shown


@pytest.mark.parametrize("command", ["srun", "srun_cr", "sbatch"])
def test_bad_options_are_refused_before_the_allocation(alice: Login, command: str) -> None:
    before = alice.jobs()
    for option, word in (
        ("--checkpoint=soon", "not a time"),
        ("--restart-dir=/nowhere", "No such file"),
        ("--checkpoint-dir=/etc/passwd", "Not a directory"),
    ):
        program = "--wrap=true" if command == "sbatch" else "true"
        done = alice.run(command, "--cr", option, "-n1", program)
        assert done.returncode not in (0, None)
        assert word in done.stderr
    assert alice.jobs() == before
