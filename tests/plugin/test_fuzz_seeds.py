# SPDX-License-Identifier: GPL-2.0-or-later
"""Every seed of the plugin's fuzz targets under sanitizers, without a fuzzer.

And the command agrees with the plugin on what is a good word in plugstack.conf.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import fuzz
from tests.fuzz.plugin import build

CC = os.environ.get("CC", "cc")


@pytest.fixture(scope="module")
def generated(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin's C source."""
    place = tmp_path_factory.mktemp("generated")
    build.generate(place)
    return place


@pytest.mark.parametrize("name", fuzz.PLUGIN)
def test_every_seed(generated: Path, name: str) -> None:
    program = build.replayer(name, generated, CC)
    kept = [str(fuzz.SEEDS / f"plugin_{name}" / each) for each in fuzz.seeds(f"plugin_{name}")]
    assert kept, f"no seeds of {name} are kept"
    done = subprocess.run([program, *kept], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.splitlines() == kept


def test_a_seed_that_does_not_hold_is_seen(generated: Path, tmp_path: Path) -> None:
    """The harness is not blind: a target that reads behind its input, and one that is wrong."""
    for body in ("return data[size];", "abort();"):
        source = tmp_path / "wrong.c"
        head = "#include <stdint.h>\n#include <stdlib.h>\n"
        call = "int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)"
        source.write_text(f"{head}{call} {{ {body} }}\n")
        (tmp_path / "seed").write_bytes(b"12345678")
        program = tmp_path / "wrong"
        words = [*CC.split(), "-g", *build.SANITIZE, str(source), str(build.HERE / "replay.c")]
        subprocess.run([*words, "-o", str(program)], check=True)
        done = subprocess.run(
            [program, str(tmp_path / "seed")], capture_output=True, text=True, check=False
        )
        assert done.returncode != 0


def test_every_seed_of_words(tools: None) -> None:
    target = fuzz.target(fuzz.WORDS)
    kept = fuzz.seeds(fuzz.WORDS)
    config = fuzz.seeds("plugin_config")
    assert kept
    for data in (*target.made(), *kept.values(), *config.values()):
        target.check(data)
