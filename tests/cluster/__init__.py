# SPDX-License-Identifier: GPL-2.0-or-later
"""A disposable Slurm cluster on one machine: real daemons, one set of namespaces per node.

`python3 -m tests.cluster up|sh|status|down` drives it by hand, Cluster from tests. See README.md
beside this file for what it needs and leaves behind.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Cluster", "ClusterError", "Node"]


def __getattr__(name: str) -> Any:
    # `sh` starts many times in a test run: it must not pay for importing the rest.
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(name)
