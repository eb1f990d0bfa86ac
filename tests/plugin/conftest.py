# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the plugin and its host with sanitizers, in a directory of the test session's own.

Skips what needs a compiler, Cython, Slurm's headers or root where they are missing.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .driver import USER, Host

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Without _FORTIFY_SOURCE, whose checks would end the process before a sanitizer can say where; and
# without red zones around globals: their table refers to every global of Cython's, and so to
# libpython, which the linker could then not leave out.
SANITIZE = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
    "--param=asan-globals=0",
    "-U_FORTIFY_SOURCE",
]


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


@pytest.fixture(scope="session")
def tools() -> None:
    """Skip where the plugin cannot be built at all."""
    cc = compiler()
    for tool in (cc[0], "nm"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} to build the plugin with")
    for module in ("Cython", "setuptools"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{sys.executable} has no {module} to build the plugin with")
    extra = os.environ.get("SLURM_INCLUDE")
    probe = [*cc, "-E", *([f"-I{extra}"] if extra else []), "-x", "c", "-"]
    found = subprocess.run(
        probe, input=b"#include <slurm/spank.h>\n", capture_output=True, check=False
    )
    if found.returncode:
        pytest.skip("no slurm/spank.h: Slurm's headers (libslurm-dev) are not installed")


@pytest.fixture(scope="session")
def ground() -> Iterator[Path]:
    """A directory that an unprivileged user may enter, and as root one that only root can change.

    Not below /tmp: the plugin refuses, rightly, to trust what lies in a directory all may write.
    """
    base = "/opt" if os.getuid() == 0 and Path("/opt").is_dir() else None
    path = Path(tempfile.mkdtemp(prefix="pycr-test-", dir=base))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def reports(ground: Path) -> Path:
    path = ground / "reports"
    path.mkdir()
    path.chmod(0o1777)
    return path


def copy_tree(into: Path) -> Path:
    """Copy what setup.py needs to build the plugin, so that the checkout stays as it is."""
    into.mkdir()
    shutil.copy(ROOT / "setup.py", into)
    shutil.copytree(ROOT / "spank_cr", into / "spank_cr")
    shutil.copytree(ROOT / "pycr/c", into / "pycr/c")
    shutil.copytree(ROOT / "docs/man", into / "docs/man")
    shutil.copy(ROOT / "pycr/__init__.py", into / "pycr")
    return into


def build_plugin(tree: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_plugin"],
        cwd=tree,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def built(tools: None, ground: Path, reports: Path) -> Host:
    """Build the sanitized plugin, in PREFIX/lib/slurm as installed, and the host."""
    library = subprocess.run(
        [*compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if "/" not in library:
        pytest.skip("the C compiler has no AddressSanitizer")
    tree = copy_tree(ground / "sanitized")
    flags = shlex.join(SANITIZE)
    done = build_plugin(tree, CFLAGS=flags, LDFLAGS=flags)
    assert done.returncode == 0, done.stdout
    plugin = ground / "lib/slurm/spank_cr.so"
    plugin.parent.mkdir(parents=True)
    shutil.copy(tree / "build/spank_cr.so", plugin)
    host = ground / "host"
    extra = os.environ.get("SLURM_INCLUDE")
    include = [f"-I{extra}"] if extra else []
    subprocess.run(
        [*compiler(), "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", *SANITIZE, *include]
        + [f'-DREPORTS="{reports}/report"', str(HERE / "host.c"), "-o", str(host)]
        + ["-rdynamic", "-ldl"],
        check=True,
    )
    return Host(host, plugin, reports)


@pytest.fixture
def host(built: Host) -> Iterator[Host]:
    yield built
    built.check()


@pytest.fixture
def root() -> None:
    """Skip where the tests cannot play slurmstepd."""
    if os.getuid() != 0:
        pytest.skip("playing slurmstepd needs root")


def plain_python() -> str:
    """Return a Python for the fake programs: one that every user can run, where there is one."""
    system = "/usr/bin/python3"
    return system if Path(system).exists() else os.path.realpath(sys.executable)


@pytest.fixture(scope="session")
def python(ground: Path) -> Path:
    """Install the fake helper as a trusted interpreter and return its path."""
    real = plain_python()
    path = ground / "bin/python3"
    path.parent.mkdir()
    source = (HERE / "helper.py").read_text(encoding="utf-8")
    path.write_text(f"#!{real} -I\n{source}", encoding="utf-8")
    path.chmod(0o755)
    if os.getuid() == 0:
        tried = subprocess.run(["setpriv", f"--reuid={USER}", "--clear-groups", real, "-c", ""])
        if tried.returncode:
            pytest.skip(f"an unprivileged user cannot run {real}")
    return path


@pytest.fixture
def place(ground: Path) -> Iterator[Path]:
    """A fresh directory that only root can change."""
    path = Path(tempfile.mkdtemp(prefix="place-", dir=ground))
    path.chmod(0o755)
    yield path
    path.chmod(0o755)
    shutil.rmtree(path)
