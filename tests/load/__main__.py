# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.load [NAME...]`: pycr under load, on the real cluster; figures on stdout.

A scenario fails when a task lost or repeated a line, when a command failed, or when something grew;
never because it took long.
"""

from __future__ import annotations

import os
import sys
import traceback

from tests.cluster import Cluster

from .large import large
from .rounds import rounds
from .together import one_job, one_user, two_users
from .wide import eight_nodes, one_node

SCENARIOS = {
    "one-node": one_node,
    "eight-nodes": eight_nodes,
    "one-user": one_user,
    "two-users": two_users,
    "one-job": one_job,
    "rounds": rounds,
    "large": large,
}


def main(names: list[str]) -> int:
    """Run the named scenarios, or all; return how many failed."""
    unknown = set(names) - set(SCENARIOS)
    if unknown:
        raise SystemExit(f"load: no scenario {min(unknown)}: there are {', '.join(SCENARIOS)}")
    failed = 0
    for name in names or SCENARIOS:
        print(f"{name}: {SCENARIOS[name].__doc__}", flush=True)
        try:
            print(SCENARIOS[name]().summary(), flush=True)
        except AssertionError:
            traceback.print_exc()
            failed += 1
    if not os.environ.get("PYCR_KEEP_CLUSTER"):
        Cluster().down()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
