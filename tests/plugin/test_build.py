# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin as setup.py builds it for a site: what it needs and exports, and what is refused."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import build_plugin, compiler, copy_tree

EXPORTS = {
    "plugin_name",
    "plugin_type",
    "plugin_version",
    "spank_plugin_version",
    "slurm_spank_init",
    "slurm_spank_init_post_opt",
    "slurm_spank_local_user_init",
    "slurm_spank_user_init",
    "slurm_spank_task_init_privileged",
    "slurm_spank_task_init",
    "slurm_spank_exit",
}
# Of Slurm's, what the plugin takes: all of it is in srun, sbatch, salloc, slurmd and slurmstepd.
IMPORTS = {
    "slurm_debug",
    "slurm_error",
    "slurm_free_ctl_conf",
    "slurm_free_partition_info_msg",
    "slurm_job_step_layout_free",
    "slurm_job_step_layout_get",
    "slurm_load_ctl_conf",
    "slurm_load_partitions",
    "spank_context",
    "spank_get_item",
    "spank_getenv",
    "spank_option_register",
    "spank_setenv",
    "spank_unsetenv",
}


@pytest.fixture(scope="module")
def tree(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, for the builds that end before they write a plugin."""
    return copy_tree(tmp_path_factory.mktemp("build") / "tree")


@pytest.fixture(scope="module")
def plugin(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin as it is installed, without sanitizers."""
    tree = copy_tree(tmp_path_factory.mktemp("build") / "plain")
    done = build_plugin(tree)
    assert done.returncode == 0, done.stdout
    return tree / "build/spank_cr.so"


def symbols(plugin: Path, which: str) -> set[str]:
    """Return the plugin's dynamic symbols of one kind, without their versions."""
    done = subprocess.run(
        ["nm", "-D", which, "--format=posix", str(plugin)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {line.split()[0].partition("@")[0] for line in done.stdout.splitlines()}


def test_exports_the_hooks_and_nothing_else(plugin: Path) -> None:
    assert symbols(plugin, "--defined-only") == EXPORTS


def test_needs_nothing_of_python(plugin: Path) -> None:
    needed = symbols(plugin, "--undefined-only")
    assert not {name for name in needed if name.lower().lstrip("_").startswith("py")}
    assert {name for name in needed if name.startswith(("slurm_", "spank_"))} == IMPORTS


def test_is_linked_to_the_c_library_alone(plugin: Path) -> None:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("no readelf")
    done = subprocess.run(
        [readelf, "-d", "-W", str(plugin)], stdout=subprocess.PIPE, text=True, check=True
    )
    needed = [line for line in done.stdout.splitlines() if "(NEEDED)" in line]
    assert len(needed) == 1
    assert "[libc.so" in needed[0]
    assert "BIND_NOW" in done.stdout


def refusal(tree: Path, **variables: str) -> str:
    """Return the line with which the build ended."""
    done = build_plugin(tree, **variables)
    assert done.returncode == 1, done.stdout
    assert not (tree / "build/spank_cr.so").exists()
    assert "Traceback" not in done.stdout
    return done.stdout.splitlines()[-1]


def test_refuses_an_old_slurm(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    header = tmp_path / "slurm/spank.h"
    header.write_text("#define SLURM_VERSION_NUMBER 0x150808\n", encoding="ascii")
    assert refusal(tree, SLURM_INCLUDE=str(tmp_path)) == (
        "setup.py: spank_cr.so: slurm/spank.h is of Slurm 21.08, and pycr needs 22.05 or later"
    )


def test_refuses_a_machine_without_slurms_headers(tree: Path, tmp_path: Path) -> None:
    cc = tmp_path / "cc"
    cc.write_text(f'#!/bin/sh\nexec {shlex.join(compiler())} -nostdinc "$@"\n', encoding="ascii")
    cc.chmod(0o755)
    assert refusal(tree, CC=str(cc)) == (
        "setup.py: spank_cr.so: couldn't find slurm/spank.h: install Slurm's headers"
        " (libslurm-dev, slurm-devel) or set SLURM_INCLUDE to the directory that holds"
        " slurm/spank.h"
    )


def test_refuses_a_machine_without_a_compiler(tree: Path, tmp_path: Path) -> None:
    cc = str(tmp_path / "gone")
    assert refusal(tree, CC=cc) == (
        f"setup.py: spank_cr.so: no C compiler: {cc}: install one, or set CC"
    )


def test_says_that_the_compiler_failed(tree: Path) -> None:
    cc = compiler()[0]
    assert refusal(tree, CFLAGS="-Werror=no-such-warning -D'x'=(") == (
        f"setup.py: spank_cr.so: {cc} failed with status 1"
    )


def test_refuses_a_plugin_that_needs_python(
    tools: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One line of Python in a hook is enough, and srun would have to load libpython."""
    tree = copy_tree(tmp_path_factory.mktemp("build") / "python")
    with (tree / "spank_cr/spank_cr.pyx").open("a", encoding="utf-8") as source:
        source.write("\n\ncdef public object slurm_spank_python():\n    return [1]\n")
    line = refusal(tree)
    assert line.startswith("setup.py: spank_cr.so: it would need libpython, for ")
    assert " PyList_New" in line


def test_says_that_cython_failed(tools: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    tree = copy_tree(tmp_path_factory.mktemp("build") / "broken")
    with (tree / "spank_cr/spank_cr.pyx").open("a", encoding="utf-8") as source:
        source.write("\n\ncdef int broken() noexcept nogil:\n    return nothing\n")
    assert refusal(tree) == "setup.py: spank_cr.so: Cython failed"
