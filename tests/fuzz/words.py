# SPDX-License-Identifier: GPL-2.0-or-later
"""The command and the plugin take the same words of plugstack.conf for good ones.

Words with a NUL at the end of each, as plugin/config.c has them. The plugin is asked in this
process: build.library().
"""

from __future__ import annotations

import ctypes
import functools
import os
import tempfile
from pathlib import Path

from pycr import config

from .plugin import build


@functools.cache
def _plugin() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="pycr-fuzz-") as place:
        build.generate(Path(place))
        return ctypes.CDLL(str(build.library(Path(place), os.environ.get("CC", "cc"))))


def made() -> list[bytes]:
    """Return words."""
    good = [b"python=/p", b"srun_cr=/s", b"criu=/c", b"checkpoint_dir=%h/%u%j%%", b"ptrace=yes"]
    bad = [b"", b"=", b"word", b"python=", b"checkpoint_dir=/%", b"parallel=1234567890", b"ptrace="]
    long = [b"criu=/" + b"c" * size for size in (4093, 4094, 4095)]
    long += [b"checkpoint_dir=/" + b"d" * size for size in (4093, 4094, 4095)]
    odd = [b"python=/a\nb", b"checkpoint_dir=/\xff", b"parallel=1\n", b"ghost_limit=\xd9\xa1"]
    return [b"\0".join(words) for words in (good, bad, long, odd)]


def check(data: bytes) -> None:
    """Ask both of each word."""
    for word in data.split(b"\0"):
        takes = bool(_plugin().plugin_takes(word))
        assert config._is_good(os.fsdecode(word)) is takes, word
