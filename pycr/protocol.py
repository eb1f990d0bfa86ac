# SPDX-License-Identifier: GPL-2.0-or-later
"""What pycr's parts say to one another, in one place.

Coordinator (coordinator/) and helpers (node/), over the helper step's standard streams; srun sends
what it reads to every helper:

    coordinator                      helper on each node
        | find ------------------------>|
        | <---------------------- ready |  its tasks, its host
        | slot ------------------------>|  where the site says how many at once (slots.py)
        | <---------------- slot (task) |  the node's first; again, where there was none
        | ask ------------------------->|  where tasks want to be asked (mailbox.py)
        | <---------------- asked (task)|
        | dump ------------------------>|
        | <------ frozen / failed (task)|  every task stands still, on every node, before ...
        | write ----------------------->|
        | <------ dumped / failed (task)|  ... any is written; then held
        | release / seal -------------->|  create: release, then seal
        | <------ released (task)       |  vacate: seal, commit, then release
        | <------ sealed (task, files)  |
        | end ------------------------->|
        | <---------------- ending, ended|  it begins to let go; it has
    For a batch script, that also has `committed`, after which its end is the script's, and the
    job's where the coordinator is lost, and `collect` (vacate: keep what its sruns still say). A
    freeze that comes too late (a step has just begun) fails, and ask and dump come again.
    Before release, end of input or a lost helper means: let every task run on.

A helper's object is cut into lines of at most 1024 bytes, which slurmstepd passes on whole but may
mix with other nodes': "NODE + PIECE" ... "NODE . PIECE". The coordinator's are one line each.

Helper (node/) and pod (pod/), over an abstract Unix socket whose name is on the pod's command
line: the same objects, for its one task. It is abstract so that nothing is left behind when a step
is killed outright; each side checks the other's uid (SO_PEERCRED).
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any, TextIO

from pycr import errors
from pycr.errors import PycrError

PIECE = 800
MAX_OBJECT = 64 << 20
HELPER_NAME = "pycr-helper"  # what helper steps' names begin with, for squeue and for is_helper()
POD_COMM = "pycr-pod"  # the pod's parent: spank_cr/pod.pxi
POD_WORDS = 4  # python3 -I -m pycr.pod, then the helper's words
POD_SOCKET = 13  # among those: the name of its socket
POD_SCRIPT = 15  # the batch script's file, "" for a step's task

Object = dict[str, Any]


def pieces(node: str, value: Object) -> Iterator[str]:
    """Cut an object into lines that slurmstepd passes on whole."""
    text = json.dumps(value, separators=(",", ":"))
    while len(text) > PIECE:
        yield f"{node} + {text[:PIECE]}\n"
        text = text[PIECE:]
    yield f"{node} . {text}\n"


class Joiner:
    """Puts the pieces of each node together again."""

    def __init__(self) -> None:
        self._parts: dict[str, list[str]] = {}

    def feed(self, line: str) -> tuple[str, Object] | None:
        """Take a line; return (node, object) when it ends one. Raises ValueError for no piece."""
        head = line.rstrip("\n").split(" ", 2)
        if len(head) != 3 or head[1] not in ("+", "."):
            raise ValueError(f"not a helper's line: {line[:80]!r}")
        node, mark, piece = head
        parts = self._parts.setdefault(node, [])
        parts.append(piece)
        if len(parts) * PIECE > MAX_OBJECT:
            raise ValueError(f"{node} says too much")
        if mark == "+":
            return None
        del self._parts[node]
        return node, parse("".join(parts))


def parse(text: str | bytes) -> Object:
    """Parse one object. Raises ValueError."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def say(stream: TextIO, value: Object) -> None:
    """Write one object as a line."""
    stream.write(json.dumps(value, separators=(",", ":")) + "\n")
    stream.flush()


def parse_line(value: Object) -> bytes:
    """Return an object as the coordinator sends it: one line."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def peer_uid(connection: socket.socket) -> int:
    """Return the user at the other end of a Unix socket."""
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("3i", credentials)[1])


def failure(error: PycrError) -> Object:
    """Return an error as it travels; error_class() is its other end."""
    return {"kind": type(error).__name__, "reason": str(error)}


def is_helper(step: str) -> bool:
    """Tell whether a step's name is that of a helper step."""
    return step.startswith(HELPER_NAME)


def is_pod(cmdline: list[str]) -> bool:
    """Tell whether a command line is that of a pod's PID 1."""
    return cmdline[POD_WORDS - 1 : POD_WORDS] == ["pycr.pod"]


def pod_address(cmdline: list[str]) -> str:
    """Return the name of a pod's socket from its command line. Raises IndexError."""
    return cmdline[POD_WORDS + POD_SOCKET - 1]


def pod_script(cmdline: list[str]) -> str:
    """Return the script's file from a pod's command line. Raises IndexError."""
    return cmdline[POD_WORDS + POD_SCRIPT - 1]


def environment(changes: dict[str, list[str | None]]) -> str:
    """Return how the plugin is told what a restored process's srun should see (inside.pxi).

    For each variable its name, what it is now and what it has been, then an empty string; each with
    a NUL at its end; a value behind an equal sign, "-" for none.
    """
    words = []
    for name, values in changes.items():
        words.append(name)
        words += ["-" if value is None else f"={value}" for value in values]
        words.append("")
    return "".join(f"{word}\0" for word in words)


def error_class(value: Object) -> type[PycrError]:
    """Return the class of an error that travelled: the named one, where it is one of pycr's."""
    found = getattr(errors, str(value.get("kind")), errors.TaskError)
    if isinstance(found, type) and issubclass(found, PycrError):
        return found
    return errors.TaskError
