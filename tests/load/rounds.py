# SPDX-License-Identifier: GPL-2.0-or-later
"""One step checkpointed many times in a row: nothing may grow.

Every round makes a generation; the last but two are removed by `pycr rm`, as a user's script would.
Counted on the nodes: processes, and what those of Slurm and of the step hold in memory and in
descriptors. LOAD_ROUNDS in the environment: how many (500).
"""

from __future__ import annotations

import json
import os
import statistics
from typing import NamedTuple

from tests.login import Login

from .bed import Bed, end_all, must, start, timed

ROUNDS = int(os.environ.get("LOAD_ROUNDS", "500"))
KEPT = 2  # generations
NODES, TASKS = 2, 4
NOISE = 1.5  # what the last tenth may take, to the first
MEMORY = 8192  # KiB that a process may grow by: arenas, and pages touched for the first time
COUNT = """
import json, os
found = {}
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        name = open(f"/proc/{pid}/comm").read().strip()
        status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
        if "VmRSS" in status:
            found[pid] = [name, int(status["VmRSS"].split()[0]), len(os.listdir(f"/proc/{pid}/fd"))]
    except (OSError, ValueError):
        pass
print(json.dumps(found))
"""
WATCHED = ("slurmd", "slurmctld", "slurmstepd", "srun", "python3", "tick.py")


class Process(NamedTuple):
    """One process as a node has it: memory in KiB."""

    node: str
    name: str
    memory: int
    descriptors: int


def rounds() -> Bed:
    """Checkpoint a step in a row, and see that nothing grows."""
    bed = Bed("rounds", NODES)
    try:
        alice = bed.login("alice")
        root = bed.login("root")
        step = start(alice, TASKS, f"-N{NODES}")
        place = alice.place / step.step
        times: list[float] = []
        before: dict[str, Process] = {}
        for number in range(ROUNDS):
            times.append(timed(lambda: step.create("--image-dir", ".")))
            old = sorted(path.name for path in place.iterdir() if path.name.isdigit())[:-KEPT]
            if old:
                must(alice, "pycr", "rm", *(f"{alice.dir}/{step.step}/{name}" for name in old))
            if number == max(1, ROUNDS // 10):
                before = census(root)
        step.goes_on()
        grown(bed, before, census(root))
        names = sorted(path.name for path in place.iterdir())
        assert names == [".lock", f"{ROUNDS - 1:04}", f"{ROUNDS:04}"], names
        tenth = max(1, ROUNDS // 10)
        first, last = (statistics.median(each) for each in (times[:tenth], times[-tenth:]))
        bed.ratio(f"of {ROUNDS} checkpoints, the last {tenth} / the first", last, first)
        assert last < first * NOISE, f"{first:.2f} s at first, {last:.2f} s at last"
        step.vacate("--image-dir", ".")
        step.restart(f"-N{NODES}")
        end_all([step])
    finally:
        bed.close()
    return bed


def census(root: Login) -> dict[str, Process]:
    """Return the processes of every node, by node and pid."""
    found = {}
    for index in range(NODES):
        node = f"n{index}"
        done = root.cluster.node(node).run(["python3", "-c", COUNT], check=True)
        for pid, values in json.loads(done.stdout).items():
            found[f"{node}.{pid}"] = Process(node, *values)
    return found


def grown(bed: Bed, before: dict[str, Process], after: dict[str, Process]) -> None:
    """See that there are no more processes, and that none holds more than it did."""
    new = [process for key, process in after.items() if key not in before]
    extra = len(after) - len(before)
    bed.figure("processes more than at the first tenth", extra)
    assert extra <= 0, f"{extra} more: {new}"
    for name in WATCHED:
        pairs = [
            (before[key], now)
            for key, now in after.items()
            if key in before and now.name == name == before[key].name
        ]
        if not pairs:
            continue
        memory = max(now.memory - then.memory for then, now in pairs)
        descriptors = max(now.descriptors - then.descriptors for then, now in pairs)
        bed.figure(f"{name}: KiB more than at the first tenth", memory)
        bed.figure(f"{name}: descriptors more", descriptors)
        assert memory < MEMORY, f"{name} has grown by {memory} KiB"
        assert descriptors <= 2, f"{name} has {descriptors} descriptors more"
