# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the library as it is installed, plain and with sanitizers, with a stand-in for pycr.

Skips what needs a compiler, Cython or Slurm's headers where they are missing.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.plugin.conftest import SANITIZE, compiler, copy_tree
from tests.plugin.conftest import tools as tools

HERE = Path(__file__).resolve().parent
LIBRARY = "lib/libpycr.so.0"


@dataclass
class Prefix:
    """Where a library is installed, and what the pycr beside it is to do."""

    path: Path

    def plan(self, what: str, text: str = "") -> None:
        """Say how pycr is to end, and what it is to print before."""
        for path in (self.path / "report").iterdir():
            path.unlink()
        (self.path / "plan").write_text(f"{what}\n{text}")

    def reported(self, name: str) -> str:
        """Return what pycr has told of itself since."""
        path = self.path / "report" / name
        text = path.read_text(errors="surrogateescape")
        path.unlink()
        return text

    def words(self, name: str) -> list[str]:
        return self.reported(name).split("\0")[:-1]


def compile_c(source: Path, output: Path, *flags: str) -> None:
    extra = os.environ.get("SLURM_INCLUDE")
    include = [f"-I{extra}"] if extra else []
    wanted = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", *include]
    subprocess.run([*compiler(), *wanted, str(source), "-o", str(output), *flags], check=True)


def install(into: Path, flags: list[str]) -> Prefix:
    """Build the library, lay it out as a wheel does, and a program that uses it."""
    tree = copy_tree(into / "tree")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_library"],
        cwd=tree,
        env={**os.environ, "CFLAGS": shlex.join(flags), "LDFLAGS": shlex.join(flags)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for name in ("bin", "lib", "report", "include/pycr"):
        (into / name).mkdir(parents=True)
    for name in ("libpycr.so.0", "libpycr.so"):
        shutil.copy(tree / "build" / name, into / "lib")
    for header in ("slurm.h", "slurm_errno.h"):
        shutil.copy(tree / "pycr/c" / header, into / "include/pycr")
    compile_c(HERE / "pycr.c", into / "bin/pycr")
    libraries = [f"-L{into}/lib", f"-Wl,-rpath,{into}/lib", "-lpycr", "-lslurm"]
    compile_c(HERE / "host.c", into / "host", *flags, f"-I{into}/include", *libraries)
    os.mkfifo(into / "fifo")
    return Prefix(into)


@pytest.fixture(scope="session")
def plain(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Prefix:
    return install(tmp_path_factory.mktemp("plain"), [])


@pytest.fixture(scope="session")
def sanitized(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Prefix:
    """The library and the host program with sanitizers."""
    return install(tmp_path_factory.mktemp("sanitized"), SANITIZE)


@pytest.fixture
def prefix(plain: Prefix) -> Prefix:
    (plain.path / "plan").unlink(missing_ok=True)
    return plain


@pytest.fixture
def host(sanitized: Prefix) -> Prefix:
    (sanitized.path / "plan").unlink(missing_ok=True)
    return sanitized
