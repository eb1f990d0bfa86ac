# SPDX-License-Identifier: GPL-2.0-or-later
"""Root reads what is a user's as that user: whatever a user wrote, root's rights are not for it."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager

from pycr.errors import AccessDenied


def go_on_as(uid: int, what: str) -> pwd.struct_passwd:
    """As root, go on as a user; return who that is. what: the thing of theirs, for messages.

    Raises AccessDenied.
    """
    try:
        entry = pwd.getpwuid(uid)
    except KeyError as error:
        raise AccessDenied(f"{what}: its owner, uid {uid}, is not known here") from error
    os.initgroups(entry.pw_name, entry.pw_gid)
    os.setegid(entry.pw_gid)
    os.seteuid(uid)
    return entry


@contextmanager
def become(uid: int, what: str) -> Iterator[None]:
    """Be a user for a while, where this is root; every thread of the process is.

    Raises AccessDenied.
    """
    if os.getuid() != 0 or uid == os.geteuid():
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    try:
        go_on_as(uid, what)
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
