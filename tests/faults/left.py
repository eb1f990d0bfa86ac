# SPDX-License-Identifier: GPL-2.0-or-later
"""What must not be left on any node when a round is over, and what is."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.faults.processes import KINDS, Processes, state

OURS = ("coordinator", "helper", "criu", "helper srun", "pod", "pod's parent")


def mounts(processes: Processes, node: str) -> set[str]:
    """Return the mounts of a node: file system and mount point of each."""
    lines = Path(f"/proc/{processes.pid(node)}/mountinfo").read_text().splitlines()
    return {f"{line.split()[4]} ({line.partition(' - ')[2].split()[0]})" for line in lines}


def on_nodes(processes: Processes, nodes: list[str], before: dict[str, set[str]]) -> list[str]:
    """Return what there is that should not be. before: mounts() of each node at the beginning."""
    found = [
        f"process {process} ({state(process.pid)})"
        for process in processes.all()
        if process.users or any(KINDS[kind](process) for kind in OURS)
    ]
    for node in nodes:
        pid = processes.pid(node)
        for name in re.findall(r"@pycr-\S*", Path(f"/proc/{pid}/net/unix").read_text()):
            found.append(f"{node}: socket {name}")
        for mount in sorted(mounts(processes, node) - before.get(node, set())):
            found.append(f"{node}: mount {mount}")
    return found


def sweep_sockets(processes: Processes, cluster: Any) -> list[str]:
    """Return the directories of killed srun_cr's that the user's next one does not remove."""
    found = []
    for node in (cluster.state.load() or {"nodes": []})["nodes"]:
        for path in Path(f"/proc/{processes.pid(node)}/root/tmp").glob("srun_cr.*"):
            with suppress(FileNotFoundError):  # its srun_cr has just ended
                os.utime(
                    path, (0, 0)
                )  # what is young may not have its listener yet: srun_cr/frames.py
            words = ["srun", "--cr", "-n1", f"-w{node}", "true"]
            done = cluster.node(node).run(words, user="alice")
            if path.exists():
                found.append(f"{node}: {path.name} after an srun --cr: {done}")
                shutil.rmtree(path)
    return found


def beside_images(images: Path) -> list[str]:
    """Return the remains in an image directory that the next checkpoint would have to remove."""
    return sorted(
        str(path.relative_to(images))
        for path in images.glob("*/.*")
        if path.name.startswith((".new-", ".restart-"))
    )
