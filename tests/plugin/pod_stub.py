# SPDX-License-Identifier: GPL-2.0-or-later
"""A stub of the pod that a restored batch script lives in: PID 1, and what it tells the plugin.

test_inside.py starts it as `python3 -m pycr.pod`, PID 1 of a namespace, with a pod's words and
behind them the host's. It serves the socket that its words name as the file `orders` in its restart
directory says (JSON), has the host run below it, and ends as the host does.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

POD_WORDS = 19


def main() -> None:
    words, host = sys.argv[1 : POD_WORDS + 1], sys.argv[POD_WORDS + 1 :]
    orders = json.loads(Path(words[9], "orders").read_text(encoding="ascii"))
    listener = socket.socket(socket.AF_UNIX)
    if orders["listens"]:
        listener.bind(f"\0{words[12]}")
        os.seteuid(orders["uid"])  # who listens is whom SO_PEERCRED tells
        listener.listen(1)
    child = os.fork()
    if child == 0:
        listener.close()
        os.execv(host[0], ["srun", *host[1:]])
    if orders["listens"]:
        serve(listener, orders)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def serve(listener: socket.socket, orders: dict[str, object]) -> None:
    """Answer once; a host that has no question ends the connection."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as stream:
        line = stream.readline()
        os.write(1, f"asked {line.decode()!r}\n".encode())
        if not line:
            return
        answer = str(orders["answer"]).encode()
        if orders["silent"]:
            stream.read()  # until the host has had enough of it
        # In two pieces, as a socket may.
        connection.sendall(answer[:5])
        time.sleep(0.01)
        connection.sendall(answer[5:])


main()
