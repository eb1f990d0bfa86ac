# SPDX-License-Identifier: GPL-2.0-or-later
"""The remote context: a task that becomes the helper with its few capabilities, and plain tasks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .driver import (
    CAP_CHECKPOINT_RESTORE,
    CAP_SYS_PTRACE,
    GLIBCS,
    STEP,
    USER,
    Host,
    Run,
    capabilities,
)

CAUTIOUS_PATH = "PATH={}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BATCH, EXTERN, INTERACTIVE = 0xFFFFFFFB, 0xFFFFFFFC, 0xFFFFFFFA
FAILED = 125 << 8  # errors.py: RESTORE_FAILED, as a wait status


def script(python: Path, *more: str, option: str = "cr-helper=7.0") -> list[str]:
    """The lines of a step with an option; more of them come before slurm_spank_init."""
    return [*STEP, f"arg python={python}", *more, "call init", f"option {option}"]


def helper(host: Host, python: Path, *more: str) -> Run:
    run = host.run([*script(python, *more), f"task {USER}"])
    assert run.status == 0, run.lines
    assert not run.errors
    assert "command" not in run.lines
    return run


def failed(run: Run) -> str:
    """Return why the task ended; the user's command must not run in its place."""
    assert run.status == FAILED, run.lines
    assert "command" not in run.lines
    assert not run.all("helper")
    assert len(run.errors) == 1
    return run.errors[0]


@pytest.mark.usefixtures("root")
class TestHelper:
    def test_its_words(self, host: Host, python: Path) -> None:
        report = helper(host, python).helper
        assert report["argv"] == (
            ["-I", "-m", "pycr.node", "7", "3", "5", "1", "8", "n1", "", "0", "1024", "7.0"]
        )

    def test_it_is_what_the_kernel_ends_first(self, host: Host, python: Path) -> None:
        """Where memory runs out; but no pod is: that would be the task."""
        before = int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii"))
        assert before < 1000
        assert helper(host, python).helper["oom"] == 1000

    def test_its_words_with_settings(self, host: Host, python: Path, place: Path) -> None:
        criu = place / "criu"
        criu.touch(0o755)
        more = [f"arg criu={criu}", "arg parallel=2", "arg ghost_limit=64"]
        report = helper(host, python, *more).helper
        assert report["argv"][-4:] == [str(criu), "2", "64", "7.0"]

    def test_its_environment_is_made_from_nothing(self, host: Host, python: Path) -> None:
        names = ["LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "PATH", "HOME", "X"]
        report = helper(host, python, *(f"setenv {name}=/evil" for name in names)).helper
        prefix = host.program.resolve().parents[1]
        assert report["environ"] == [CAUTIOUS_PATH.format(prefix), "LC_ALL=C.UTF-8"]

    def test_it_gets_slurmstepds_own_slurm_conf(self, host: Host, python: Path) -> None:
        more = ["jobenv SLURM_CONF=/evil", "setenv SLURM_CONF=/etc/slurm/slurm.conf"]
        report = helper(host, python, *more).helper
        assert report["environ"][2:] == ["SLURM_CONF=/etc/slurm/slurm.conf"]

    def test_it_gets_no_stray_descriptor(self, host: Host, python: Path) -> None:
        report = helper(host, python, "open 3", "open 63", "open 200").helper
        assert sorted(report["fds"]) == ["0", "1", "2"]
        assert report["cwd"] == "/"

    def test_it_gets_no_signal_state(self, host: Host, python: Path) -> None:
        """But for the two that Python ignores in its own start."""
        status = helper(host, python, "ignore 1", "ignore 17", "block 15").helper["status"]
        assert int(status["SigBlk"], 16) == 0
        assert int(status["SigIgn"], 16) & ~(GLIBCS | 1 << 12 | 1 << 24) == 0

    def test_it_is_the_user(self, host: Host, python: Path) -> None:
        status = helper(host, python).helper["status"]
        assert status["Uid"].split() == [str(USER)] * 4
        assert status["Gid"].split() == [str(USER)] * 4
        assert status["NoNewPrivs"] == "1"

    @pytest.mark.parametrize("ptrace", ["no", "yes"])
    def test_its_capabilities(self, host: Host, python: Path, ptrace: str) -> None:
        status = helper(host, python, f"arg ptrace={ptrace}").helper["status"]
        wanted = CAP_CHECKPOINT_RESTORE | (CAP_SYS_PTRACE if ptrace == "yes" else 0)
        assert capabilities(status) == {
            "CapInh": wanted,
            "CapPrm": wanted,
            "CapEff": wanted,
            "CapAmb": wanted,
        }

    def test_refuses_a_step_of_root(self, host: Host, python: Path) -> None:
        run = host.run([*script(python), "task 0"])
        assert failed(run) == "cr: couldn't checkpoint or restart: not for steps of root"

    def test_refuses_a_broken_setting(self, host: Host, python: Path) -> None:
        run = host.run([*script(python, "arg color=red"), f"task {USER}"])
        assert run.errors == [
            "cr: checkpoint/restart is off: plugstack.conf: unknown key: color=red",
            "cr: couldn't checkpoint or restart: plugstack.conf: unknown key: color=red",
        ]
        assert run.status == FAILED

    def test_needs_to_know_its_place(self, host: Host, python: Path) -> None:
        lines = [line for line in script(python) if not line.startswith("jobenv")]
        run = host.run([*lines, f"task {USER}"])
        assert failed(run) == "cr: couldn't learn the task's place: spank_get_item failed"

    def test_says_when_slurmstepd_has_no_capabilities(self, host: Host, python: Path) -> None:
        """As in a container, or where task_init_privileged was not called."""
        run = host.run([*script(python), f"user {USER}", f"task {USER}"])
        assert failed(run) == "cr: couldn't narrow capabilities: Operation not permitted"

    def test_says_when_the_helper_does_not_start(self, host: Host, place: Path) -> None:
        path = place / "python3"
        path.write_bytes(b"\x7fELF")
        path.chmod(0o755)
        run = host.run([*script(path), f"task {USER}"])
        assert failed(run) == "cr: couldn't execute the helper: Exec format error"

    def test_a_repeated_callback_changes_nothing(self, host: Host, python: Path) -> None:
        run = host.run([*script(python), "option cr-helper=7.0", f"task {USER}"])
        assert run.helper["argv"][-1] == "7.0"

    @pytest.mark.parametrize(
        ("step", "option"),
        [
            (BATCH, "cr-helper=7.0"),
            (EXTERN, "cr-helper=7.0"),
            (EXTERN, "restart-dir=/"),
            (INTERACTIVE, "cr-helper=7.0"),
            (INTERACTIVE, "restart-dir=/"),
        ],
    )
    def test_no_step_of_srun_is_left_alone(
        self, host: Host, python: Path, step: int, option: str
    ) -> None:
        """The options of a batch job reach its script and its extern step as well."""
        run = host.run([*script(python, f"item step {step}", option=option), f"task {USER}"])
        assert run.status == 0
        assert "command" in run.lines
        assert not run.errors
        assert int(run.one("keepcaps")) == 0
        assert set(run.capabilities.values()) == {0}


def test_a_plain_task_keeps_no_capability(host: Host, root: None) -> None:
    run = host.run([*STEP, "call init", "option checkpoint=5", f"task {USER}"])
    assert run.status == 0
    assert "command" in run.lines
    assert int(run.one("keepcaps")) == 0
    assert set(run.capabilities.values()) == {0}


def test_a_plain_task_does_not_see_sruns_variables(host: Host) -> None:
    run = host.run([*STEP, "call init", "call user_init"])
    assert run.all("spank_unsetenv") == [
        "SLURM_SRUN_CR_SOCKET",
        "SLURM_RESTART_DIR",
        "SLURM_RESTART_FILES",
        "SLURM_CR_BATCH",
        "SLURM_CR_GOES_ON",
    ]
    assert not run.all("spank_setenv")
    assert run.all("return") == ["init 0", "user_init 0"]


@pytest.mark.parametrize("given", ["/scratch/c", "scratch/c"])
def test_a_task_is_told_its_image_directory(host: Host, given: str) -> None:
    """The whole path: whoever reads the variable is somewhere else."""
    run = host.run([*STEP, "call init", f"option checkpoint-dir={given}", "call task_init"])
    path = os.path.join(os.getcwd(), given)
    assert run.one("spank_setenv") == f"SLURM_CHECKPOINT_IMAGE_DIR={path} 1"


@pytest.mark.parametrize("step", [BATCH, EXTERN])
def test_a_batch_script_keeps_its_restart_directory(host: Host, step: int) -> None:
    run = host.run([*STEP, f"item step {step}", "call init", "call user_init"])
    assert run.all("spank_unsetenv") == ["SLURM_SRUN_CR_SOCKET"]


def test_hooks_of_the_task_do_nothing_elsewhere(host: Host) -> None:
    """In srun, where they are not called, and without any option."""
    hooks = ["task_init_privileged", "task_init"]
    run = host.run([*STEP, "call init", *(f"call {hook}" for hook in hooks)])
    assert run.all("return") == ["init 0", *(f"{hook} 0" for hook in hooks)]
    assert os.getuid() != 0 or not run.errors
