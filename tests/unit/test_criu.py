# SPDX-License-Identifier: GPL-2.0-or-later
"""criu as a process: it may be killed at any moment, and leave a child behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from pycr.engine import rpc
from pycr.engine.criu import Worker
from tests.login import until

# As CRIU does to probe the kernel: a child that sleeps, and has all that its parent had open.
PROBING = """#!/bin/sh
sleep 1000 &
echo $! > {child}
wait
"""


def test_killed_with_a_child(tmp_path: Path) -> None:
    """The conversation ends, although the child holds the socket, and the child ends too."""
    program, child = tmp_path / "criu", tmp_path / "child"
    program.write_text(PROBING.format(child=child))
    program.chmod(0o755)
    worker = Worker(str(program))
    pid = int(until("the child", lambda: child.exists() and child.read_text().strip()))
    os.kill(worker.process.pid, signal.SIGKILL)
    outcome = worker.converse(rpc.request(rpc.VERSION, {}), lambda _: True)
    assert not outcome.good
    assert outcome.reason == "criu was killed by signal 9"
    until("the child to end", lambda: not Path(f"/proc/{pid}/exe").exists())
