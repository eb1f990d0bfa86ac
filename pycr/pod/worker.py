# SPDX-License-Identifier: GPL-2.0-or-later
"""The process in a pod that serves one node helper: it has the restored task dumped, from inside.

Forked by PID 1 (process.py) for each connection, so that PID 1 never waits for one. How a task is
dumped is node/task.py's, as on a node.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pycr import mailbox, protocol
from pycr.engine import criu, proc
from pycr.errors import PycrError
from pycr.node import task

if TYPE_CHECKING:
    import socket

    from pycr.pod.process import Pod


def work(pod: Pod, connection: socket.socket) -> None:
    """Do what the node helper asks: describe, look, dump, release."""

    def version() -> tuple[int, ...]:
        return criu.version(criu.find(pod.criu))

    dump: task.Dump | None = None
    with connection.makefile("rw", encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            value = protocol.parse(line)
            try:
                if value["do"] == "describe":
                    found = task.describe(pod.root)
                    task.refuse(pod.root, strays(pod.root), pod=True)
                    if value["ready"]:
                        task.refuse_holding(pod.root, version, pod.ghost_limit)
                    protocol.say(stream, {**found, **pod.told()})
                elif value["do"] == "look":
                    task.refuse_holding(pod.root, version, pod.ghost_limit)
                    protocol.say(stream, {"event": "looked"})
                elif value["do"] == "environment":
                    stream.write(protocol.environment(pod.changes()))
                    stream.flush()
                    return
                elif value["do"] == "dump":
                    dump = task.Dump(
                        int(value["task"]),
                        pod.root,
                        Path(value["dir"]),
                        task.Limits(
                            criu.find(pod.criu),
                            int(value["ghost_limit"]),
                            int(value["timeout"]),
                        ),
                        threading.Semaphore(1),
                        lambda report: protocol.say(stream, report),
                        keep=bool(value["keep"]),
                        hold=True,
                    )
                    dump.start()
                elif value["do"] == "write" and dump is not None:
                    dump.write()
                elif value["do"] == "release" and dump is not None:
                    dump.release(bool(value["commit"]))
                    dump.finish()
                    return  # the pod of a task that has ended waits for this process
            except PycrError as error:
                protocol.say(stream, {"event": "failed", **protocol.failure(error)})
        # The helper is gone: a dump it did not commit is none.
        if dump is not None:
            dump.release(False)
            dump.finish()


def strays(root: int) -> set[int]:
    """Return the processes here that are not the task's, nor of pycr's own beside it."""
    every = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    every = {pid for pid in every if proc.alive(pid)}  # a dead one is about to be reaped
    # Workers that PID 1 has forked since this one was are known by its command line alone.
    own = proc.cmdline(1)
    beside = {pid for pid in every if pid != 1 and proc.cmdline(pid) == own}
    beside.update(pid for pid in every if proc.comm(pid) == mailbox.MONITOR_COMM)
    ours = set(proc.tree(root)) | {1}
    for worker in beside:
        ours.update(proc.tree(worker))
    return proc.outside(every - ours, {root, *beside})
