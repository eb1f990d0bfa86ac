# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a program is root's alone to change: what runs with a capability must be.

The plugin makes the same walk in C for the interpreter (cr_trusted() in spank_cr/config.pxi).
"""

from __future__ import annotations

import os
import stat


def untrusted(path: str, executable: bool = True) -> str:
    """Return what keeps the plugin from trusting a path, "" where nothing does. Raises OSError.

    Every component is looked at as it stands and links are followed by hand: realpath would skip
    a directory that holds a link in the middle of a chain.
    """
    todo, done = path.strip("/").split("/"), "/"
    links = 0
    while True:
        status = os.lstat(done)
        if status.st_uid != 0:
            return f"{done}: does not belong to root"
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > 40:
                return f"{path}: too many symbolic links"
            target = os.path.join(os.path.dirname(done), os.readlink(done))
            todo, done = [*target.strip("/").split("/"), *todo], "/"
            continue
        if status.st_mode & 0o022:
            return f"{done}: others than root may write it"
        if not todo:
            bad = executable and not os.access(done, os.X_OK)
            return f"{done}: not executable" if bad else ""
        done = os.path.join(done, todo.pop(0))
