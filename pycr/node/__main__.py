# SPDX-License-Identifier: GPL-2.0-or-later
"""The dump helper as a program: for a step's tasks (dumper.py), or a batch script (script.py).

The plugin executes it (spank_cr/slurmstepd.pxi) as `python3 -I -m pycr.node`, as the job's user,
with CAP_CHECKPOINT_RESTORE and an environment made from nothing.
"""

from __future__ import annotations

import os
import signal
import sys

from pycr.node.dumper import Helper


def main() -> int:
    """Run the helper with the plugin's words."""
    os.umask(0o077)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # run() lets go on the way out
    if sys.argv[10].endswith(".batch"):
        from pycr.node.script import ScriptHelper

        return ScriptHelper(sys.argv[1:]).run()
    return Helper(sys.argv[1:]).run()


if __name__ == "__main__":
    sys.exit(main())
