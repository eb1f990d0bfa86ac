# SPDX-License-Identifier: GPL-2.0-or-later
"""The dump of a restored task, as the helper on its node has it: its pod does the work.

A restored task can only be dumped from inside its pod (pod/, by task.py). This one asks for it,
passes on what the coordinator says, and reports what the pod does, as if it were its own.
"""

from __future__ import annotations

import socket

from pycr import protocol
from pycr.errors import TaskError
from pycr.node import task
from pycr.protocol import Object


class PodDump(task.Dump):
    """The dump of a restored task: done inside its pod, by the pod's PID 1; this one relays."""

    pod: socket.socket
    waiting = highest = 0
    ran: Object

    def program(self) -> Object:
        """Return what the pod has found: its names are the task's."""
        return self.ran

    def unread(self) -> int:
        """Return what the pod has found."""
        return self.waiting

    def max_pid(self) -> int:
        """Return what the pod has found: only there it is as the task knows it."""
        return self.highest

    def refuse_privileged(self) -> None:
        """Refuse nothing: the pod has looked, and its own processes have a capability."""

    def late_timers(self) -> list[tuple[int, int]]:
        """Return none: the pod has looked."""
        return []

    def begin_image(self) -> bool:
        """Do nothing: the pod does it."""
        return True

    def dump(self) -> Object:
        """Ask the pod, hold as asked, and return the times. Raises PycrError."""
        with self.pod.makefile("rw", encoding="utf-8") as pod:
            protocol.say(
                pod,
                {
                    "do": "dump",
                    "task": self.task_id,
                    "dir": str(self.directory),
                    "keep": self.keep,
                    "ghost_limit": self.limits.ghost_limit,
                    "timeout": self.limits.timeout,
                },
            )
            for line in pod:
                answer = protocol.parse(line)
                if answer.get("event") == "frozen":
                    self.ran = {name: answer[name] for name in ("exe", "args", "cwd", "streams")}
                    go = {"do": "write"} if self.frozen() else {"do": "release", "commit": False}
                    protocol.say(pod, go)
                elif answer.get("event") == "dumped":
                    self.waiting, self.highest = int(answer["unread"]), int(answer["max_pid"])
                    commit = self.dumped(float(answer["began"]), float(answer["frozen"]))
                    protocol.say(pod, {"do": "release", "commit": commit})
                elif answer.get("event") == "released":
                    return {"frozen": answer["frozen"], "seconds": answer["seconds"]}
                elif self._refused is not None:
                    raise self._refused
                else:
                    raise protocol.error_class(answer)(str(answer.get("reason")))
        raise TaskError("its pod has ended")
