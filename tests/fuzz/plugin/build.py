# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the plugin's fuzz targets: as libFuzzers with clang, to replay seeds with any compiler."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
COMMON = ["-std=gnu11", "-g", "-O1", "-D_GNU_SOURCE", "-fno-omit-frame-pointer", "-w"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
# Cython's own part refers to libpython, and is never called.
PROGRAM = ["-fno-pie", "-no-pie", "-Wl,--unresolved-symbols=ignore-all"]


def generate(into: Path) -> None:
    """Write the plugin's C source."""
    into.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "cython", "-I", "spank_cr", "spank_cr/spank_cr.pyx"]
    subprocess.run([*command, "--output-file", str(into / "spank_cr.c")], cwd=ROOT, check=True)


def compile_target(
    name: str, place: Path, output: Path, compiler: Sequence[str], more: Sequence[str]
) -> Path:
    """Compile a target whose plugin generate() has put into `place`. more: options and sources."""
    include = [place, HERE, ROOT / "tests/plugin", sysconfig.get_path("include")]
    extra = os.environ.get("SLURM_INCLUDE")
    options = [f"-I{path}" for path in [*include, *([extra] if extra else [])]]
    source = str(HERE / f"{name}.c")
    subprocess.run(
        [*compiler, *COMMON, *options, source, *more, "-o", str(output), "-ldl"], check=True
    )
    return output


def clang() -> str:
    """Return the newest clang there is. Raises SystemExit."""
    for name in ("clang", *(f"clang-{version}" for version in range(22, 13, -1))):
        path = shutil.which(name)
        if path is not None:
            return path
    raise SystemExit("fuzz: no clang with libFuzzer: make fuzz installs it")


def fuzzer(target: str, work: Path) -> Path:
    """Build a target as a libFuzzer; target: plugin_NAME."""
    name = target.partition("_")[2]
    place = work / "plugin"
    generate(place)
    flags = ["-fsanitize=fuzzer", *SANITIZE, *PROGRAM]
    return compile_target(name, place, place / name, [clang()], flags)


def replayer(name: str, place: Path, compiler: str) -> Path:
    """Build a target as a program that is given its inputs as files."""
    flags = [*SANITIZE, *PROGRAM, str(HERE / "replay.c")]
    return compile_target(name, place, place / f"replay-{name}", shlex.split(compiler), flags)


def library(place: Path, compiler: str) -> Path:
    """Build the config target as a library, for words.py."""
    flags = ["-shared", "-fPIC", "-fvisibility=hidden"]
    return compile_target("config", place, place / "config.so", shlex.split(compiler), flags)
