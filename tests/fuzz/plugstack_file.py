# SPDX-License-Identifier: GPL-2.0-or-later
"""plugstack.conf as the command reads it: never an exception, and no include without an end.

That it takes the same words for good as the plugin does is words.py's.
"""

from __future__ import annotations

from pycr import config

from .scratch import scratch

PLUGIN = b"optional /opt/pycr/lib/slurm/spank_cr.so"


def made() -> list[bytes]:
    """Return files."""
    return [
        PLUGIN + b"\n",
        b"# ours\nrequired spank_cr.so\tcheckpoint_dir=%h/%u/%j/%% ptrace=yes # end\n",
        b"include *.conf\n"
        + PLUGIN
        + b" python=/p criu=/c parallel=2 ghost_limit=9 bogus=1 word\n",
        b"optional /spank_cr.so\n",
    ]


def check(data: bytes) -> None:
    """Read it."""
    path = scratch() / "plugstack.conf"
    path.write_bytes(data)
    site = config.read(str(path))
    if site.plugin is not None:
        assert site.plugin.rpartition("/")[2] == config.PLUGIN
        assert not any(set(word) & set(" \t\n#\0") for word in site.faults)
    place = site.default_dir("alice", "/home/alice", 7)
    if site.plugin is not None and not site.faults:
        assert place.is_absolute()
