# SPDX-License-Identifier: GPL-2.0-or-later
"""At most so many checkpoints at once: on a node (node_checkpoints), on a file system
(fs_checkpoints).

    a node          the helper there binds one of N abstract sockets, @pycr-slot-0 ... -(N-1)
    a file system   the coordinator locks one of N files (flock) in DIR/.pycr-slots

DIR is the image directory or one above it on the same file system; the administrator makes
.pycr-slots, root's, with N files in it that all may open. The kernel gives a slot back when its
holder ends, however that is. There is no daemon, and nobody is privileged: a user can hold slots
for ever, or ask for none. So this shares a file server among those who mean no harm, and waiting
for a slot has an end: at half of what is left of --max-wait the checkpoint is made all the same,
and says so. Nothing is frozen meanwhile.

Who does not get a slot on every node gives back those that it has, so that no two wait for each
other.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pycr.config import Site
    from pycr.coordinator.helpers import Helpers
    from pycr.coordinator.step import Checkpoint

PLACE = ".pycr-slots"
PAUSE = (0.1, 0.4)  # seconds between attempts: at random, so that no two keep meeting


def bind(count: int) -> socket.socket | None:
    """Take one of a node's slots; return None where all are taken."""
    for number in range(count):
        slot = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            slot.bind(f"\0pycr-slot-{number}")
        except OSError:
            slot.close()
            continue
        return slot
    return None


def place(directory: Path) -> Path | None:
    """Return where a file system's slots are, None where it has none."""
    directory = Path(os.path.realpath(directory))
    device = os.stat(directory).st_dev
    for each in (directory, *directory.parents):
        with suppress(OSError):
            if os.stat(each).st_dev != device:
                return None
            status = os.lstat(each / PLACE)
            if os.path.isdir(each / PLACE) and status.st_uid == 0 and not status.st_mode & 0o022:
                return each / PLACE
    return None


def lock(directory: Path, count: int) -> int | None:
    """Take one of a file system's slots; return its descriptor, None where all are taken.

    Where there are no locks or no files to lock, nobody is held up: -1.
    """
    tried = 0
    for name in sorted(os.listdir(directory))[:count]:
        flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            file = os.open(directory / name, os.O_RDWR | flags)  # NFS locks what is open to write
        except OSError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            tried += 1
        except OSError:
            pass
        os.close(file)
    return None if tried else -1


class Slots:
    """Those of one command."""

    def __init__(
        self,
        site: Site,
        progress: Callable[[str, int, int], None],
        warn: Callable[[str], None],
    ) -> None:
        self.site, self.progress, self.warn = site, progress, warn
        self.held: dict[str, Helpers] = {}  # node -> whose helper holds its slot
        self.file = -1
        self.tired = False  # it has waited in vain, and does not again

    def take(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Wait for the slots of checkpoints whose helpers are ready. Raises PycrError.

        Called again with others, or with the same and more: what is held is kept.
        """
        first = checkpoints[0]
        give_up = time.monotonic() + max(0.0, first.deadline - time.monotonic()) / 2
        if self.site.fs_checkpoints and self.file < 0:
            self._take_file(first, give_up)
        if self.site.node_checkpoints:
            self._take_nodes(checkpoints, give_up)

    def close(self) -> None:
        """Give the file system's back; the nodes' go with the helpers."""
        if self.file >= 0:
            os.close(self.file)
        self.file = -1

    def _take_file(self, first: Checkpoint, give_up: float) -> None:
        assert first.writer is not None
        where = place(first.writer.path)
        while where is not None:
            found = lock(where, self.site.fs_checkpoints)
            if found is not None:
                self.file = found
                return
            if not self._wait([first], give_up, f"{where} (fs_checkpoints"):
                return

    def _take_nodes(self, checkpoints: Sequence[Checkpoint], give_up: float) -> None:
        ours = {each.helpers for each in checkpoints}
        self.held = {node: whose for node, whose in self.held.items() if whose in ours}
        wanted: dict[Helpers, list[str]] = {}
        for each in checkpoints:
            nodes = [node for node in each.layout if node not in self.held]
            self.held.update(dict.fromkeys(nodes, each.helpers))
            if nodes:
                wanted[each.helpers] = nodes
        while wanted:
            lacking = [node for whose, nodes in wanted.items() for node in _ask(whose, nodes, self)]
            if not lacking:
                return
            for whose in wanted:
                whose.tell(do="slot", nodes=[], slots=0)
            if not self._wait(checkpoints, give_up, f"node {lacking[0]} (node_checkpoints"):
                return

    def _wait(self, checkpoints: Sequence[Checkpoint], give_up: float, where: str) -> bool:
        """Wait a little while the helpers are heard; tell whether to try again."""
        if self.tired or time.monotonic() > give_up:
            if not self.tired:
                self.warn(
                    f"{checkpoints[0].step.title}: no slot came free on {where} in plugstack.conf):"
                    " checkpointed all the same"
                )
            self.tired = True
            return False
        until = time.monotonic() + random.uniform(*PAUSE)
        what = "waiting until there is a slot"
        for each in checkpoints:
            each.helpers.until(
                lambda: time.monotonic() >= until, what, lambda: self.progress(what, 0, 1)
            )
        return True


def _ask(helpers: Helpers, nodes: list[str], slots: Slots) -> list[str]:
    """Have the helpers on these nodes take a slot each; return the nodes where there was none."""
    tasks = {min(helpers.layout[node]): node for node in nodes}
    helpers.forget("slot")
    seen = helpers.events("slot")
    helpers.tell(do="slot", nodes=nodes, slots=slots.site.node_checkpoints)
    what = "asking for slots"
    helpers.until(
        lambda: len(seen) >= len(nodes), what, lambda: slots.progress(what, len(seen), len(nodes))
    )
    return [node for task, node in tasks.items() if not seen[task]["got"]]
