# SPDX-License-Identifier: GPL-2.0-or-later
"""Build pycr: the Python package, and for the Slurm whose headers are found its SPANK plugin and C
library.

    python3 -m venv /opt/pycr && /opt/pycr/bin/pip install .

These two are no Python extensions: they are compiled by Cython but linked so that nothing of
libpython is left, and are installed as PREFIX/lib/slurm/spank_cr.so and PREFIX/lib/libpycr.so.0.
`python3 setup.py build_plugin` and `build_library` build one alone. CC, CFLAGS and SLURM_INCLUDE
(the directory that holds slurm/spank.h) are heeded.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent
PLUGIN = Path("build/spank_cr.so")
LIBRARY = Path("build/libpycr.so.0")
PAGES = Path("build/man")
MAN = runpy.run_path(str(ROOT / "docs/man/make.py"))
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
]


class BuildError(Exception):
    """What is compiled cannot be built here; the message says what to do."""


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


class build_native(Command):
    """Compile and link one shared object, and refuse it when a symbol of Python's is left in it."""

    user_options: ClassVar[list[tuple[str, str | None, str]]] = []
    output: ClassVar[Path]
    source: ClassVar[str]
    include_path: ClassVar[list[str]]  # for Cython and, below ours, for C
    ldflags: ClassVar[list[str]]

    def initialize_options(self) -> None:
        pass

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        os.chdir(ROOT)
        self.output.parent.mkdir(exist_ok=True)
        try:
            self.build()
        except BuildError as error:
            raise SystemExit(f"setup.py: {self.output.name}: {error}") from error

    def build(self) -> None:
        from Cython.Compiler import Options
        from Cython.Compiler.Main import compile as cython

        headers = slurm_include()
        made = self.output.with_name(Path(self.source).stem + ".c")
        Options.docstrings = False
        options = {"output_file": str(made), "include_path": self.include_path}
        result = cython(self.source, **options)  # type: ignore[no-untyped-call]
        if result.num_errors:
            raise BuildError("Cython failed")
        cc = shlex.split(os.environ.get("CC", "cc"))
        flags = [*CFLAGS, *shlex.split(os.environ.get("CFLAGS", "")), *headers]
        flags += ["-I" + self.include_path[0], "-I" + sysconfig.get_path("include")]
        ldflags = [*LDFLAGS, *self.ldflags, *shlex.split(os.environ.get("LDFLAGS", ""))]
        run([*cc, *flags, str(made), "-o", str(self.output), *ldflags, "-ldl"])
        symbols = run(["nm", "-D", "--undefined-only", str(self.output)])
        python = [word for word in symbols.split() if re.match(r"_?Py", word)]
        if python:
            self.output.unlink()
            raise BuildError("it would need libpython, for " + " ".join(python))


class build_plugin(build_native):
    description = "build the SPANK plugin"
    output = PLUGIN
    source = "spank_cr/spank_cr.pyx"
    include_path: ClassVar[list[str]] = ["spank_cr"]
    ldflags: ClassVar[list[str]] = ["-Wl,--version-script=spank_cr/spank_cr.lds"]


class build_library(build_native):
    """With what a C compiler and man(1) need beside the library itself."""

    description = "build the C library"
    output = LIBRARY
    source = "pycr/c/slurm_checkpoint.pyx"
    include_path: ClassVar[list[str]] = ["pycr/c", "spank_cr"]
    ldflags: ClassVar[list[str]] = [
        "-Wl,--version-script=pycr/c/libpycr.lds",
        f"-Wl,-soname,{LIBRARY.name}",
    ]

    def build(self) -> None:
        super().build()
        # The name to link with. A wheel holds no links, so it is the same file again.
        shutil.copy(LIBRARY, LIBRARY.with_suffix(""))
        text = Path("pycr/c/pycr.pc").read_text(encoding="utf-8")
        Path("build/pycr.pc").write_text(text.replace("@VERSION@", version()), encoding="utf-8")
        for page in function_pages():
            page.parent.mkdir(exist_ok=True)
            page.write_text(".so man3/slurm_checkpoint.3\n", encoding="utf-8")


class build_man(Command):
    """Make the man pages of the verbs: build/man/pycr-able.1 and so on."""

    description = "make the man pages of the verbs"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        pass

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        MAN["write"](ROOT / PAGES)


class build_all(build):
    """Build plugin, library and pages with everything else: data_files then find them."""

    sub_commands = [
        ("build_plugin", None),
        ("build_library", None),
        ("build_man", None),
        *build.sub_commands,
    ]


class Platform(Distribution):
    """The plugin and the library make a wheel one of this machine and this Slurm."""

    def has_ext_modules(self) -> bool:
        return True


def version() -> str:
    text = (ROOT / "pycr/__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.*)"', text, re.MULTILINE)
    assert match is not None
    return match.group(1)


def function_pages() -> list[Path]:
    """Return the man pages to make for the library's functions, each by its name."""
    exported = (ROOT / "pycr/c/libpycr.lds").read_text(encoding="utf-8")
    return [Path(f"build/man3/{name}.3") for name in re.findall(r"slurm_\w+", exported)]


def man_pages() -> list[tuple[str, list[str]]]:
    pages: dict[str, list[str]] = {}
    for page in sorted((ROOT / "docs/man").glob("*.[1-8]")):
        section = page.suffix[1:]
        pages.setdefault(f"share/man/man{section}", []).append(str(page.relative_to(ROOT)))
    pages.setdefault("share/man/man3", []).extend(map(str, function_pages()))
    pages["share/man/man1"] += [str(PAGES / name) for name in MAN["pages"]()]
    return list(pages.items())


COMPLETION = {
    "pycr": "share/bash-completion/completions",
    "_pycr": "share/zsh/site-functions",
    "pycr.fish": "share/fish/vendor_completions.d",
}


setup(
    name="pycr",
    version=version(),
    description="Checkpoint/restart of Slurm job steps and batch jobs with CRIU",
    license="GPL-2.0-or-later",
    python_requires=">=3.9",
    # Never required: it is of one Slurm release each, and Slurm's commands do (docs/install.md).
    extras_require={"pyslurm": ["pyslurm"], "report": ["Pillow>=10.1"]},
    packages=find_packages(include=["pycr", "pycr.*"]),
    package_data={"pycr": ["py.typed"]},
    entry_points={"console_scripts": ["pycr = pycr.cli:main"]},
    scripts=["pycr/bin/srun_cr"],
    data_files=[
        ("lib/slurm", [str(PLUGIN)]),
        ("lib", [str(LIBRARY), str(LIBRARY.with_suffix(""))]),
        ("lib/pkgconfig", ["build/pycr.pc"]),
        ("include/pycr", ["pycr/c/slurm.h", "pycr/c/slurm_errno.h"]),
        ("share/pycr", ["plugstack.conf.example"]),
        *((place, [f"pycr/completion/{name}"]) for name, place in COMPLETION.items()),
        *man_pages(),
    ],
    distclass=Platform,
    cmdclass={
        "build": build_all,
        "build_plugin": build_plugin,
        "build_library": build_library,
        "build_man": build_man,
    },
    zip_safe=False,
)
