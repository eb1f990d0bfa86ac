# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin's arguments in plugstack.conf: each key, what is wrong, and who hears of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .driver import STEP, USER, Host

GOOD = [
    "python=/opt/pycr/bin/python3",
    "srun_cr=/opt/pycr/bin/srun_cr",
    "criu=/usr/sbin/criu",
    "checkpoint_dir=/scratch/%u/%j/100%%",
    "checkpoint_dir=%h/ckpt",
    "checkpoint_dir=%h",
    "ptrace=yes",
    "ptrace=no",
    "parallel=0",
    "parallel=16",
    "ghost_limit=999999999",
]
PATTERN = "not an absolute directory (%u, %h, %j and %% may stand in it)"
BAD = [
    ("python=bin/python3", "not an absolute path"),
    ("python=", "not an absolute path"),
    ("srun_cr=srun_cr", "not an absolute path"),
    ("criu=criu", "not an absolute path"),
    ("criu=/" + "c" * 4095, "not an absolute path"),
    ("checkpoint_dir=ckpt", PATTERN),
    ("checkpoint_dir=", PATTERN),
    ("checkpoint_dir=%u/ckpt", PATTERN),
    ("checkpoint_dir=/scratch/%x", PATTERN),
    ("checkpoint_dir=/scratch/%", PATTERN),
    ("checkpoint_dir=/" + "d" * 4095, PATTERN),
    ("ptrace=maybe", "neither yes nor no"),
    ("ptrace=", "neither yes nor no"),
    ("ptrace=yes please", "neither yes nor no"),
    ("parallel=", "not a number"),
    ("parallel=two", "not a number"),
    ("parallel=-1", "not a number"),
    ("parallel=1234567890", "not a number"),
    ("ghost_limit=1G", "not a number"),
    ("ghost_limit=1234567890", "not a number"),
    ("color=red", "unknown key"),
    ("pythons=/opt", "unknown key"),
    ("=", "unknown key"),
    ("ptrace", "not KEY=VALUE"),
    ("", "not KEY=VALUE"),
]


def fault(arg: str, what: str) -> str:
    return f"plugstack.conf: {what}: {arg[:512]}"


@pytest.mark.parametrize("arg", GOOD)
def test_takes_a_setting(host: Host, arg: str) -> None:
    run = host.run(["context slurmd", f"arg {arg}", "call init"])
    assert run.lines == ["return init 0", "done"]


@pytest.mark.parametrize(("arg", "what"), BAD)
def test_names_what_is_wrong_in_the_daemons_log(host: Host, arg: str, what: str) -> None:
    run = host.run(["context slurmd", f"arg {arg}", "call init"])
    assert run.errors == [f"cr: checkpoint/restart is off: {fault(arg, what)}"]
    assert run.one("return") == "init 0"


@pytest.mark.parametrize(("arg", "what"), BAD)
def test_refuses_cr_with_the_setting_named(host: Host, arg: str, what: str) -> None:
    run = host.run(["context local", f"arg {arg}", "call init", "option cr", "call init_post_opt"])
    assert run.refused() == f"cr: checkpoint/restart is off here: {fault(arg, what)}"


@pytest.mark.parametrize("option", ["restart-dir=/", "cr-helper=1.0"])
def test_refuses_what_else_needs_the_setting(host: Host, option: str) -> None:
    script = ["context local", "arg color=red", "call init", f"option {option}"]
    run = host.run([*script, "call init_post_opt"])
    assert run.refused() == (
        f"cr: checkpoint/restart is off here: {fault('color=red', 'unknown key')}"
    )


@pytest.mark.parametrize("context", ["local", "allocator"])
def test_a_wrong_setting_leaves_a_plain_srun_alone(host: Host, context: str) -> None:
    hooks = ["call init", "call init_post_opt", "call local_user_init"]
    run = host.run([f"context {context}", "arg color=red", *hooks])
    assert run.all("return") == ["init 0", "init_post_opt 0", "local_user_init 0"]
    assert [line for line in run.lines if not line.startswith(("return", "registered"))] == ["done"]


def test_a_wrong_setting_leaves_a_plain_task_alone(host: Host, root: None) -> None:
    run = host.run([*STEP, "arg color=red", "call init", "call user_init", f"task {USER}"])
    assert "command" in run.lines
    assert run.status == 0


def test_the_first_fault_is_the_one_named(host: Host) -> None:
    run = host.run(["context slurmd", "arg parallel=x", "arg color=red", "call init"])
    assert run.errors == [
        f"cr: checkpoint/restart is off: {fault('parallel=x', 'not a number')}",
    ]


def test_the_last_of_two_values_counts(host: Host, tmp_path: Path) -> None:
    args = [f"arg python={tmp_path}/first", f"arg python={tmp_path}/second"]
    run = host.run(["context local", *args, "call init", "option cr", "call init_post_opt"])
    assert run.refused().startswith(f"cr: couldn't execute {tmp_path}/second: ")
