# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the tasks of a restarted step wait for one another: none runs before all are restored.

One that ran sooner could change a file whose size is in another's image; CRIU would refuse that one
("has bad size"), now and ever after. And a task must not run on where another cannot be restored.

    <image directory>/12.0/.restart-14.0/     of the checkpoint 12.0, for its restart as 14.0
      arrived.N   task N is restored, and held         failed   one cannot be
      left.N      task N knows how it ended; who finds all of these removes the directory

It is in the image directory because that is what every node sees. Where it cannot be made (a
read-only file system) nobody waits, and who fails ends the step instead. Where a pod cannot even be
started, the plugin says so here (spank_cr/slurmstepd.pxi), and where there is no plugin, the
command that srun was given.
"""

from __future__ import annotations

import os
import shlex
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pycr.errors import RestoreFailed
from pycr.images import image

OLD = 86400.0  # seconds after which a meeting's directory is of a restart that was killed


class OtherFailed(RestoreFailed):
    """Another task could not be restored; it has said why."""


class Place(NamedTuple):
    """Where a restored task is: the new step's name, its id in it, and how many tasks it has."""

    step: str
    task_id: int
    tasks: int


class Meeting:
    """One task's part in it."""

    def __init__(self, generation: Path, place: Place) -> None:
        self.path = generation.parent / image.meeting_name(place.step)
        self.place = place
        self.over = place.tasks == 1

    def wait(self) -> None:
        """Arrive, and wait until all have. Raises OtherFailed."""
        if self.over or not self._leave("arrived"):
            return
        delay = 0.002
        while True:
            names = self._names()
            if "failed" in names or len(_of(names, "arrived")) >= self.place.tasks:
                break
            time.sleep(delay)
            delay = min(delay * 1.5, 0.2)
        self._end()
        if "failed" in names:
            raise OtherFailed("another task could not be restored")

    def fail(self) -> bool:
        """Tell the others that this task cannot be restored; return whether they will hear it.

        They will not once they have met, nor where there is no place to meet.
        """
        if self.over:
            return self.place.tasks == 1
        told = self._leave("failed", own=False) and self._leave("arrived")
        if told:
            self._end()
        return told

    def _leave(self, name: str, own: bool = True) -> bool:
        """Leave a file there, with this task's number; return whether it could be."""
        try:
            self.path.mkdir(0o700, exist_ok=True)
            (self.path / (f"{name}.{self.place.task_id}" if own else name)).touch(0o600)
        except OSError:
            return False
        return True

    def _names(self) -> list[str]:
        """Return what is there now: on NFS a change of one's own drops what is cached of it."""
        probe = self.path / f"probe.{self.place.task_id}"
        probe.touch(0o600)
        probe.unlink()
        return os.listdir(self.path)

    def _end(self) -> None:
        self.over = True
        self._leave("left")
        with suppress(OSError):
            if len(_of(self._names(), "left")) >= self.place.tasks:
                image.remove_tree(self.path)


def _of(names: list[str], kind: str) -> list[str]:
    return [name for name in names if name.startswith(f"{kind}.")]


def without_plugin(generation: Path) -> list[str]:
    """Return the command for srun that the pods stand in for: it runs where the plugin is not."""
    script = f"""
echo "pycr: couldn't restart: task $SLURM_PROCID on $SLURMD_NODENAME:" \\
    "the spank_cr plugin is not enabled there (plugstack.conf)" >&2
if [ "$SLURM_NTASKS" != 1 ]; then
    place={shlex.quote(str(generation.parent))}/{image.meeting_name("$SLURM_JOB_ID.$SLURM_STEP_ID")}
    mkdir -p -m 700 "$place"
    : > "$place/failed" && : > "$place/arrived.$SLURM_PROCID" && : > "$place/left.$SLURM_PROCID" ||
        scancel --signal=KILL "$SLURM_JOB_ID.$SLURM_STEP_ID"
    [ "$(ls "$place" | grep -c ^left)" != "$SLURM_NTASKS" ] || rm -r "$place"
fi
exit {RestoreFailed.exit_status}"""
    return ["/bin/sh", "-c", script]


def sweep(generation: Path) -> None:
    """Remove what restarts that were killed have left beside a generation."""
    with suppress(OSError):
        for path in generation.parent.iterdir():
            if image.is_meeting(path.name) and time.time() - path.lstat().st_mtime > OLD:
                image.remove_tree(path)
