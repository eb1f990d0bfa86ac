#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Listens on a Unix socket outside of any job and writes down every line that comes.

usage: collector.py SOCKET FILE
"""

import os
import socket
import sys
import threading

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
log = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def collect(connection: socket.socket) -> None:
    with connection.makefile("rb") as lines:
        for line in lines:
            os.write(log, line)


while True:
    threading.Thread(target=collect, args=(listener.accept()[0],), daemon=True).start()
