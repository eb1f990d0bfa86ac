# SPDX-License-Identifier: GPL-2.0-or-later
"""Build pycr: the Python package, and the SPANK plugin for the Slurm whose headers are found.

    python3 -m venv /opt/pycr && /opt/pycr/bin/pip install .

The plugin is no Python extension: it is compiled by Cython but linked so that nothing of libpython
is left, and it is installed as PREFIX/lib/slurm/spank_cr.so. `python3 setup.py build_plugin`
builds it alone. CC, CFLAGS and SLURM_INCLUDE (the directory that holds slurm/spank.h) are heeded.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent
PLUGIN = Path("build/spank_cr.so")
OLDEST_SLURM = (22, 5)
CFLAGS = [
    "-std=gnu11",
    "-O2",
    "-g",
    "-fPIC",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-function",
    "-Wno-unused-parameter",
    "-fstack-protector-strong",
    "-D_FORTIFY_SOURCE=2",
    "-D_GNU_SOURCE",
    "-ffunction-sections",
    "-fdata-sections",
    "-DCYTHON_NO_PYINIT_EXPORT",
    "-DCYTHON_WITHOUT_ASSERTIONS=1",
]
LDFLAGS = [
    "-shared",
    "-Wl,--gc-sections",
    "-Wl,-z,relro",
    "-Wl,-z,now",
    "-Wl,--no-undefined-version",
    "-Wl,--version-script=spank_cr/spank_cr.lds",
]


class BuildError(SystemExit):
    """The plugin cannot be built here; the message says what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(f"setup.py: spank_cr.so: {text}")


def slurm_include() -> list[str]:
    """Return the compiler's options for Slurm's headers, after looking at their version."""
    extra = os.environ.get("SLURM_INCLUDE")
    flags = [f"-I{extra}"] if extra else []
    probe = "#include <slurm/spank.h>\nV=SLURM_VERSION_NUMBER\n"
    cc = shlex.split(os.environ.get("CC", "cc"))
    try:
        found = subprocess.run(
            [*cc, "-E", "-P", "-x", "c", *flags, "-"],
            input=probe,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise BuildError(f"no C compiler: {cc[0]}: install one, or set CC") from error
    match = re.search(r"^V=\s*(0x[0-9a-fA-F]+)", found.stdout, re.MULTILINE)
    if found.returncode or match is None:
        raise BuildError(
            "couldn't find slurm/spank.h: install Slurm's headers (libslurm-dev, slurm-devel)"
            " or set SLURM_INCLUDE to the directory that holds slurm/spank.h"
        )
    number = int(match.group(1), 16)
    version = (number >> 16, number >> 8 & 0xFF)
    if version < OLDEST_SLURM:
        raise BuildError(
            f"slurm/spank.h is of Slurm {version[0]}.{version[1]:02}, and pycr needs 22.05 or later"
        )
    return flags


def run(argv: list[str]) -> str:
    print(shlex.join(argv), flush=True)
    try:
        return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
    except FileNotFoundError as error:
        raise BuildError(f"couldn't run {argv[0]}: not installed") from error
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{argv[0]} failed with status {error.returncode}") from error


class build_plugin(Command):
    """Compile and link spank_cr.so, and refuse it when a symbol of Python's is left in it."""

    description = "build the SPANK plugin"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        pass

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        from Cython.Compiler import Options
        from Cython.Compiler.Main import compile as cython

        os.chdir(ROOT)
        headers = slurm_include()
        PLUGIN.parent.mkdir(exist_ok=True)
        source = PLUGIN.with_suffix(".c")
        Options.docstrings = False
        options = {"output_file": str(source), "include_path": ["spank_cr"]}
        result = cython("spank_cr/spank_cr.pyx", **options)  # type: ignore[no-untyped-call]
        if result.num_errors:
            raise BuildError("Cython failed")
        cc = shlex.split(os.environ.get("CC", "cc"))
        flags = [*CFLAGS, *shlex.split(os.environ.get("CFLAGS", "")), *headers]
        flags.append("-I" + sysconfig.get_path("include"))
        ldflags = [*LDFLAGS, *shlex.split(os.environ.get("LDFLAGS", ""))]
        run([*cc, *flags, str(source), "-o", str(PLUGIN), *ldflags, "-ldl"])
        symbols = run(["nm", "-D", "--undefined-only", str(PLUGIN)])
        python = [word for word in symbols.split() if re.match(r"_?Py", word)]
        if python:
            PLUGIN.unlink()
            raise BuildError("it would need libpython, for " + " ".join(python))


class build_all(build):
    """Build the plugin with everything else: data_files then find it."""

    sub_commands = [("build_plugin", None), *build.sub_commands]


class Platform(Distribution):
    """The plugin makes a wheel one of this machine and this Slurm."""

    def has_ext_modules(self) -> bool:
        return True


def version() -> str:
    text = (ROOT / "pycr/__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.*)"', text, re.MULTILINE)
    assert match is not None
    return match.group(1)


def man_pages() -> list[tuple[str, list[str]]]:
    pages: dict[str, list[str]] = {}
    for page in sorted((ROOT / "docs/man").glob("*.[1-8]")):
        section = page.suffix[1:]
        pages.setdefault(f"share/man/man{section}", []).append(str(page.relative_to(ROOT)))
    return list(pages.items())


setup(
    name="pycr",
    version=version(),
    description="Checkpoint/restart of Slurm job steps and batch jobs with CRIU",
    license="GPL-2.0-or-later",
    python_requires=">=3.9",
    packages=find_packages(include=["pycr", "pycr.*"]),
    package_data={"pycr": ["py.typed"]},
    entry_points={"console_scripts": ["pycr = pycr.cli:main"]},
    scripts=["pycr/bin/srun_cr"],
    data_files=[
        ("lib/slurm", [str(PLUGIN)]),
        ("share/pycr", ["plugstack.conf.example"]),
        *man_pages(),
    ],
    distclass=Platform,
    cmdclass={"build": build_all, "build_plugin": build_plugin},
    zip_safe=False,
)
