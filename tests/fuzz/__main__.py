# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.fuzz [--seconds N] [--keep] [NAME...]`: run fuzz targets, one after the other.

Python targets need atheris (requirements-fuzz.txt), those of the plugin clang with libFuzzer. The
tree is left alone, but with --keep, which puts inputs that reach something new into seeds/. What
fails is written to build/fuzz/failed: fixed, it becomes a seed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import HERE, PLUGIN, PYTHON, SEEDS, WORDS, target
from .plugin import build

WORK = HERE.parents[1] / "build/fuzz"
MAX_SIZE = 4096  # bytes of an input, and so of a seed
MAX_SEEDS = 40


def main(argv: list[str]) -> int:
    """Run the command line; return how many targets failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--keep", action="store_true", help="put new inputs into the seeds")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a target; default: all")
    arguments = parser.parse_args(argv)
    names = arguments.names or [*PYTHON, WORDS, *(f"plugin_{name}" for name in PLUGIN)]
    failed = [name for name in names if not fuzz(name, arguments.seconds, arguments.keep)]
    for name in failed:
        print(f"{name}: failed: {WORK / 'failed'}", file=sys.stderr)
    return len(failed)


def fuzz(name: str, seconds: int, keep: bool) -> bool:
    """Run one target; tell whether it held."""
    failed = WORK / "failed"
    failed.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pycr-fuzz-") as place:
        corpus, merged = Path(place) / "corpus", Path(place) / "merged"
        corpus.mkdir()
        merged.mkdir()
        kept = SEEDS / name
        kept.mkdir(parents=True, exist_ok=True)
        if name in (*PYTHON, WORDS):
            for number, data in enumerate(target(name).made()):
                (corpus / f"made-{number}").write_bytes(data)
            # A program of its own: to merge, libFuzzer starts what argv[0] names.
            program = Path(place) / "fuzzer"
            words = shlex.join([sys.executable, "-m", "tests.fuzz", "--one", str(program), name])
            program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            program.chmod(0o755)
            command = [str(program)]
        else:
            command = [str(build.fuzzer(name, WORK))]
        options = [f"-max_total_time={seconds}", "-timeout=10", f"-max_len={MAX_SIZE}"]
        options += [
            f"-artifact_prefix={failed}/{name}-",
            "-print_final_stats=1",
            "-rss_limit_mb=4096",
        ]
        done = run([*command, *options, str(corpus), str(kept)])
        print(f"{name}: {summary(done.stderr)}", flush=True)
        if done.returncode:
            print(done.stderr[-4000:], file=sys.stderr)
        elif keep:
            run([*command, "-merge=1", str(merged), str(kept), str(corpus)])
            follows = getattr(target(name), "follows", None) if name in PYTHON else None
            add(merged, kept, follows or (lambda _: True))
        return done.returncode == 0


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a fuzzer from the top of the checkout."""
    return subprocess.run(
        command, cwd=HERE.parents[1], stderr=subprocess.PIPE, text=True, errors="replace"
    )


def summary(text: str) -> str:
    """Return the telling numbers of libFuzzer's output: executions and coverage at its end."""
    executed = re.findall(r"stat::number_of_executed_units: (\d+)", text)
    covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", text)
    if not executed or not covered:
        return "no statistics"
    edges, features, corpus = covered[-1]
    return f"{executed[-1]} executions, {edges} edges, {features} features, {corpus} inputs"


def add(merged: Path, kept: Path, follows: Callable[[bytes], bool]) -> None:
    """Add inputs that reach more than the kept seeds do, small and large ones, up to the limit."""
    known = {path.read_bytes() for path in kept.iterdir()}
    new = {path.read_bytes() for path in merged.iterdir()} - known
    found = sorted((data for data in new if follows(data)), key=lambda data: (len(data), data))
    room = max(0, MAX_SEEDS - len(known))
    every = max(1, -(-len(found) // room)) if room else len(found) + 1
    for data in found[every - 1 :: every]:
        (kept / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)


def atheris(program: str, name: str, *options: str) -> int:
    """Be the fuzzer of a Python target; never returns."""
    import atheris as engine

    with engine.instrument_imports(include=["pycr", "json"]):
        made = target(name)
    engine.Setup([program, *options], made.check)
    engine.Fuzz()
    return 1


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(HERE.parents[1])
    sys.exit(atheris(*sys.argv[2:]) if sys.argv[1:2] == ["--one"] else main(sys.argv[1:]))
