# SPDX-License-Identifier: GPL-2.0-or-later
"""The options in srun, sbatch and salloc: their registration, their values, their old variables."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pycr.settings import AUTO, Settings

from .driver import OPTION_VARIABLE, USER, Host

LOCAL = ["context local", "call init"]
ALL = ["cr -", "checkpoint TIME|auto", "checkpoint-dir DIR", "restart-dir DIR"]
ALL += ["files cut|keep|refuse", "cr-before-end TIME|no", "cr-name NAME"]
ALL += ["cr-fallback fresh|fail", "cr-skip-done -", "cr-keep N", "cr-helper JOB.STEP"]
NOT_A_TIME = "is not a time (minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS), nor auto"
WITHOUT_CR = "cr: --checkpoint does nothing without --cr: the step runs without checkpoints"
LONG = "/" + "d" * 4094


@pytest.mark.parametrize("context", ["local", "allocator", "remote"])
def test_registers_every_option(host: Host, context: str) -> None:
    run = host.run([f"context {context}", "call init"])
    assert run.all("registered") == ALL
    assert run.one("return") == "init 0"
    assert not run.errors


def test_registers_nothing_in_slurmd(host: Host) -> None:
    assert host.run(["context slurmd", "call init"]).lines == ["return init 0", "done"]


def test_says_which_option_could_not_be_registered(host: Host) -> None:
    run = host.run(["context local", "full", "call init"])
    names = [each.split()[0] for each in ALL]
    assert run.errors == [f"cr: couldn't register --{name}" for name in names]
    assert run.one("return") == "init 0"


@pytest.mark.parametrize(
    "value",
    [
        "1",
        "0:01",
        "10",
        "90:30",
        "1:00:00",
        "1-0",
        "2-12",
        "2-12:30",
        "2-12:30:59",
        "0-0:0:1",
        "999999",
        "24855-03:14:07",
    ],
)
def test_takes_a_time(host: Host, value: str) -> None:
    run = host.run([*LOCAL, f"option checkpoint={value}", "call init_post_opt"])
    assert run.one("option") == "checkpoint 0"
    assert run.all("return") == ["init 0", "init_post_opt 0"]
    assert run.errors == [WITHOUT_CR]


@pytest.mark.parametrize(
    "value",
    [
        "x",
        "1:2:3:4",
        "-5",
        "0",
        "0:0",
        "0-0",
        "9999999",
        "999999999999999999999",
        "1-",
        "1:",
        ":1",
        "1:2:",
        "1-2:3:4:5",
        "1:2-3",
        "1-2-3",
        "1.5",
        "1m",
        "+1",
        "1-x",
        "24855-03:14:08",
        "999999-0",
    ]
    + ["", " 1", "1 ", "%s%n"],
)
def test_refuses_what_is_no_time(host: Host, value: str) -> None:
    run = host.run([*LOCAL, f"option checkpoint={value}"])
    assert run.one("option") == "checkpoint -1"
    assert run.errors == [f"cr: --checkpoint={value} {NOT_A_TIME}"]


def test_refuses_a_missing_time(host: Host) -> None:
    run = host.run([*LOCAL, "option checkpoint"])
    assert run.errors == [f"cr: --checkpoint= {NOT_A_TIME}"]


@pytest.mark.parametrize(
    "given",
    ["cr-before-end", "cr-before-end=auto", "cr-before-end=no"]
    + [
        "cr-before-end=(null)",
        "cr-before-end=10",
        "cr-keep=1",
        "cr-name=a.b-C_9",
        "cr-fallback=fresh",
        "cr-skip-done",
    ],
)
def test_takes(host: Host, given: str) -> None:
    run = host.run([*LOCAL, f"option {given}", "call init_post_opt"])
    assert run.one("option") == f"{given.partition('=')[0]} 0"
    assert not run.errors


@pytest.mark.parametrize("in_a_job", [False, True])
def test_says_that_a_step_without_cr_gets_no_checkpoints(host: Host, in_a_job: bool) -> None:
    env = {"SLURM_JOB_ID": "1"} if in_a_job else {}
    run = host.run([*LOCAL, "option checkpoint=auto", "call init_post_opt"], env=env)
    assert run.all("return") == ["init 0", "init_post_opt 0"]
    assert run.errors == ([] if in_a_job else [WITHOUT_CR])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("cr-before-end=x", f"is {NOT_A_TIME[3:]} or no"),
        *(
            (f"cr-keep={value}", "is not a number of checkpoints, 1 or more")
            for value in ("0", "-1", "1x", "")
        ),
        ("cr-name=a b", "is not a plain word of up to 63 letters, digits and ._-"),
        ("cr-name=../x", "is not a plain word of up to 63 letters, digits and ._-"),
        (f"cr-name={'n' * 64}", "is not a plain word of up to 63 letters, digits and ._-"),
        ("cr-fallback=stale", "is neither fresh nor fail"),
    ],
)
def test_refuses(host: Host, given: str, why: str) -> None:
    run = host.run([*LOCAL, f"option {given}"])
    assert run.one("option") == f"{given.partition('=')[0]} -1"
    assert run.errors == [f"cr: --{given} {why}"]


def test_tells_a_waiting_srun_cr_its_settings(host: Host, tmp_path: Path) -> None:
    """In a file beside the socket, once; nothing where nothing was given."""
    env = {"SLURM_SRUN_CR_SOCKET": f"{tmp_path}/socket"}
    host.run([*LOCAL, "option cr", "call init_post_opt"], env=env)
    assert not list(tmp_path.iterdir())
    given = ["checkpoint=1", "cr-before-end", "cr-name=n", "cr-keep=3", "cr-skip-done"]
    given += ["cr-fallback=fresh", f"checkpoint-dir={tmp_path}"]
    host.run([*LOCAL, *(f"option {each}" for each in given), "call init_post_opt"], env=env)
    (told,) = tmp_path.iterdir()
    found = Settings(told.read_text())
    assert (found.checkpoint, found.before_end, found.keep) == (60, AUTO, 3)
    assert (found.name, found.skip_done, found.fallback) == ("n", True, "fresh")
    assert found.checkpoint_dir == str(tmp_path)


@pytest.mark.parametrize("name", ["checkpoint-dir", "restart-dir"])
class TestDirectory:
    """--checkpoint-dir and --restart-dir, which are looked at before the allocation."""

    def test_takes_one(self, host: Host, tmp_path: Path, name: str) -> None:
        run = host.run([*LOCAL, f"option {name}={tmp_path}", "call init_post_opt"])
        assert run.one("option") == f"{name} 0"
        assert run.all("return") == ["init 0", "init_post_opt 0"]
        assert not run.errors

    @pytest.mark.parametrize("value", ["", "="])
    def test_refuses_none(self, host: Host, name: str, value: str) -> None:
        run = host.run([*LOCAL, f"option {name}{value}"])
        assert run.one("option") == f"{name} -1"
        assert run.errors == [f"cr: --{name} needs a directory"]

    def test_refuses_a_long_name(self, host: Host, name: str) -> None:
        run = host.run([*LOCAL, f"option {name}={LONG}"])
        assert run.one("option") == f"{name} -1"
        assert run.errors == [f"cr: --{name}: File name too long"]

    def test_refuses_the_longest_name_only_when_looking(self, host: Host, name: str) -> None:
        value = LONG[:-1]
        run = host.run([*LOCAL, f"option {name}={value}", "call init_post_opt"])
        assert run.refused() == f"cr: --{name}={value}: File name too long"

    @pytest.mark.parametrize("context", ["local", "allocator"])
    def test_refuses_a_missing_one(
        self, host: Host, tmp_path: Path, name: str, context: str
    ) -> None:
        gone = tmp_path / "gone"
        script = [f"context {context}", "call init", f"option {name}={gone}", "call init_post_opt"]
        run = host.run(script, name="srun" if context == "local" else "sbatch")
        assert run.refused() == f"cr: --{name}={gone}: No such file or directory"

    def test_refuses_a_file(self, host: Host, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").touch()
        run = host.run([*LOCAL, f"option {name}={tmp_path}/file", "call init_post_opt"])
        assert run.refused() == f"cr: --{name}={tmp_path}/file: Not a directory"

    def test_refuses_one_that_is_not_permitted(self, host: Host, place: Path, name: str) -> None:
        place.chmod(0o311 if name == "restart-dir" else 0o555)
        script = [*LOCAL, f"option {name}={place}", "call init_post_opt"]
        if os.getuid() == 0:
            script.insert(0, f"user {USER}")
        run = host.run(script)
        assert run.refused() == f"cr: --{name}={place}: Permission denied"

    def test_the_last_value_counts(self, host: Host, tmp_path: Path, name: str) -> None:
        options = [f"option {name}={tmp_path}/gone", f"option {name}={tmp_path}"]
        run = host.run([*LOCAL, *options, "call init_post_opt"])
        assert run.all("return") == ["init 0", "init_post_opt 0"]


@pytest.mark.parametrize("value", ["1.0", "4294967295.4294967295", "1.2", "7.batch"])
def test_takes_a_step_for_the_helper(host: Host, value: str) -> None:
    run = host.run([*LOCAL, f"option cr-helper={value}", "call init_post_opt"])
    assert run.one("option") == "cr-helper 0"
    assert run.all("return") == ["init 0", "init_post_opt 0"]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "=",
        "=x",
        "=1",
        "=1.",
        "=.1",
        "=.",
        "=1.2.3",
        "=1.extern",
        "=1.batch.0",
        "=batch",
        "=-1.0",
        "=1 .0",
        "=../x",
    ]
    + ["=" + "1" * 30 + ".1"],
)
def test_refuses_what_is_no_step(host: Host, value: str) -> None:
    run = host.run([*LOCAL, f"option cr-helper{value}"])
    assert run.one("option") == "cr-helper -1"
    assert run.errors == ["cr: --cr-helper is for pycr's own use and takes JOB.STEP"]


@pytest.mark.parametrize("other", ["cr", "checkpoint=1", "checkpoint-dir=/", "restart-dir=/"])
def test_refuses_the_helper_with_another_option(host: Host, other: str) -> None:
    options = ["option cr-helper=1.0", f"option {other}"]
    run = host.run([*LOCAL, *options, "call init_post_opt"])
    assert run.refused() == "cr: --cr-helper: it is for pycr's own use and goes with no other"


@pytest.mark.parametrize("value", ["cut", "keep", "refuse"])
def test_policies_for_files(host: Host, value: str) -> None:
    run = host.run([*LOCAL, f"option files={value}"])
    assert run.all("option") == ["files 0"]
    assert not run.errors


@pytest.mark.parametrize("value", ["", "=", "=Cut", "=cuts", "=keep,cut", f"={LONG}"])
def test_what_is_no_policy_for_files(host: Host, value: str) -> None:
    run = host.run([*LOCAL, f"option files{value}"])
    assert run.all("option") == ["files -1"]
    assert run.errors == [f"cr: --files={value[1:]} is neither cut, keep nor refuse"]


def test_callbacks_may_come_twice(host: Host, tmp_path: Path) -> None:
    once = ["option checkpoint=5", f"option checkpoint-dir={tmp_path}"]
    run = host.run([*LOCAL, *once, *once, "call init_post_opt"])
    assert run.all("option") == ["checkpoint 0", "checkpoint-dir 0"] * 2
    assert run.all("return") == ["init 0", "init_post_opt 0"]
    assert run.errors == [WITHOUT_CR]


OLD = {
    "CHECKPOINT": "checkpoint",
    "CHECKPOINT_DIR": "checkpoint_dir",
    "RESTART_DIR": "restart_dir",
    "RESTART_FILES": "files",
    "CR_BEFORE_END": "cr_before_end",
    "CR_FALLBACK": "cr_fallback",
    "CR_KEEP": "cr_keep",
}


@pytest.mark.parametrize("old", OLD)
@pytest.mark.parametrize(
    ("name", "context", "prefix"), [("srun", "local", "SLURM_"), ("sbatch", "allocator", "SBATCH_")]
)
def test_takes_old_variables(host: Host, old: str, name: str, context: str, prefix: str) -> None:
    variable = OPTION_VARIABLE + OLD[old]
    look = f"getenv {variable}"
    script = [f"context {context}", "call init", look, "call init_post_opt", look]
    run = host.run(script, name=name, env={prefix + old: "/some/thing"})
    assert run.lines.count(f"{variable}=/some/thing") == 1
    assert run.lines.index(f"{variable}=/some/thing") < run.lines.index(f"{variable} unset")


@pytest.mark.parametrize(
    ("name", "context", "prefix"),
    [
        ("srun", "local", "SBATCH_"),
        ("sbatch", "allocator", "SLURM_"),
        ("salloc", "allocator", "SLURM_"),
        ("salloc", "allocator", "SBATCH_"),
    ],
)
def test_leaves_variables_that_are_not_its_own(
    host: Host, name: str, context: str, prefix: str
) -> None:
    look = [f"getenv {OPTION_VARIABLE}{option}" for option in OLD.values()]
    env = {prefix + old: "/some/thing" for old in OLD}
    run = host.run([f"context {context}", "call init", *look], name=name, env=env)
    assert sum(line.endswith(" unset") for line in run.lines) == len(OLD)


@pytest.mark.parametrize(("name", "left"), [("sbatch", " unset"), ("salloc", "=2"), ("srun", "=2")])
def test_a_new_job_has_not_been_started_before(host: Host, name: str, left: str) -> None:
    """Whatever the job has been in whose script sbatch is run."""
    context = "local" if name == "srun" else "allocator"
    script = [f"context {context}", "call init", "getenv SLURM_RESTART_COUNT"]
    run = host.run(script, name=name, env={"SLURM_RESTART_COUNT": "2"})
    assert f"SLURM_RESTART_COUNT{left}" in run.lines


def test_an_empty_old_variable_is_none(host: Host) -> None:
    run = host.run([*LOCAL, f"getenv {OPTION_VARIABLE}checkpoint"], env={"SLURM_CHECKPOINT": ""})
    assert f"{OPTION_VARIABLE}checkpoint unset" in run.lines


def test_slurms_own_variable_wins_over_the_old_one(host: Host) -> None:
    variable = f"{OPTION_VARIABLE}checkpoint"
    env = {"SLURM_CHECKPOINT": "1", variable: "2"}
    assert f"{variable}=2" in host.run([*LOCAL, f"getenv {variable}"], env=env).lines
