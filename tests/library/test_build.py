# SPDX-License-Identifier: GPL-2.0-or-later
"""The library as it is built: what it exports and needs; its header with each Slurm."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from pycr import __version__
from tests.plugin.conftest import compiler
from tests.plugin.test_build import symbols

from .conftest import LIBRARY, Prefix
from .test_functions import ARGUMENTS

MAIN_PAGE = ".so man3/slurm_checkpoint.3\n"
PROGRAM = """#include <pycr/slurm.h>
#include <pycr/slurm_errno.h>
int main(void) { return slurm_get_errno() + slurm_checkpoint_enable(0, NO_VAL); }
"""


def test_exports_the_functions_and_needs_the_c_library_alone(plain: Prefix) -> None:
    library = plain.path / LIBRARY
    names = {f"slurm_checkpoint_{name}" for name in ARGUMENTS}
    assert symbols(library, "--defined-only") - {"LIBPYCR_0"} == names
    needed = symbols(library, "--undefined-only")
    assert not {name for name in needed if name.lower().lstrip("_").startswith(("py", "slurm"))}
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("no readelf")
    done = subprocess.run(
        [readelf, "-d", "-W", library], capture_output=True, text=True, check=True
    )
    (needed_line,) = (line for line in done.stdout.splitlines() if "(NEEDED)" in line)
    assert needed_line.endswith("[libc.so.6]")
    assert "[libpycr.so.0]" in done.stdout
    assert "BIND_NOW" in done.stdout


def compiled(prefix: Prefix, language: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [*compiler(), "-x", language, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", *flags]
    return subprocess.run(
        [*command, f"-I{prefix.path}/include", "-"],
        input=PROGRAM,
        capture_output=True,
        text=True,
        check=False,
    )


def test_headers_with_other_releases_of_slurm(plain: Prefix, tmp_path: Path) -> None:
    """Before 24.11 slurm_get_errno() was Slurm's; up to 19.05 all of these were."""
    assert compiled(plain, "c", "-std=c99").stderr == ""
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/slurm_errno.h").write_text("")
    (tmp_path / "slurm/slurm.h").write_text("#define NO_VAL (0xfffffffe)\n")
    number = tmp_path / "slurm/slurm_version.h"
    for version, known in (
        (0x160500, False),
        (0x180508, False),
        (0x180B00, True),
        (0x1A0503, True),
    ):
        number.write_text(f"#define SLURM_VERSION_NUMBER {version:#x}\n")
        done = compiled(plain, "c", "-isystem", str(tmp_path))
        assert ("slurm_get_errno" not in done.stderr) == known, done.stderr
        assert known or done.returncode
    number.write_text("#define SLURM_VERSION_NUMBER 0x130508\n")
    done = compiled(plain, "c", "-isystem", str(tmp_path))
    assert "pycr/slurm.h needs Slurm 22.05 or later" in done.stderr


def test_headers_in_cplusplus(plain: Prefix) -> None:
    if shutil.which("c++") is None:
        pytest.skip("expected: no C++ compiler")
    assert compiled(plain, "c++").stderr == ""


def test_both_names_are_the_library(plain: Prefix) -> None:
    link = plain.path / "lib/libpycr.so"
    assert link.read_bytes() == (plain.path / LIBRARY).read_bytes()
    assert ctypes.CDLL(str(link)).slurm_checkpoint_able


def test_what_is_made_beside_it(plain: Prefix) -> None:
    """A man page for each function, and the file for pkg-config."""
    build = plain.path / "tree/build"
    pages = {path.name: path.read_text() for path in (build / "man3").iterdir()}
    assert pages == {f"slurm_checkpoint_{name}.3": MAIN_PAGE for name in ARGUMENTS}
    settings = (build / "pycr.pc").read_text()
    assert f"Version: {__version__}\n" in settings
    assert "-lpycr" in settings
