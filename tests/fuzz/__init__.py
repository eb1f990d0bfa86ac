# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that reads what a user or an administrator wrote, each as one fuzz target.

A target is a module with

    check(data)     reads data, and asserts what must hold of what came of it: any exception but
                    the documented ones is a finding
    made()          seeds in today's format, so that they follow it when it changes

and seeds/<target>/ has what a fuzzer found beyond those, and every input that was a bug once. None
needs a fuzzer: tests/unit and tests/plugin run every seed. __main__.py runs the fuzzers. plugin/
has the C side: a target a file, each with LLVMFuzzerTestOneInput().
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
SEEDS = HERE / "seeds"
PYTHON = (
    "frame",
    "manifest_json",
    "protocol_lines",
    "rpc_messages",
    "late_file",
    "requeue_file",
    "plugstack_file",
    "mailbox_lines",
    "pipes_image",
)
WORDS = "words"  # in Python too, but it asks the plugin
PLUGIN = ("option", "config", "trust", "layout", "inside", "requeue")


def target(name: str) -> ModuleType:
    """Return a Python target."""
    return importlib.import_module(f"tests.fuzz.{name}")


def seeds(name: str) -> dict[str, bytes]:
    """Return the kept seeds of a target, by name."""
    return {path.name: path.read_bytes() for path in sorted((SEEDS / name).glob("*"))}
