# SPDX-License-Identifier: GPL-2.0-or-later
"""One step of 64 tasks: all on one node, and 8 on each of 8. Created, vacated, restarted."""

from __future__ import annotations

from .bed import Bed, end_all, median, must, raw, start

TASKS = 64


def one_node() -> Bed:
    """64 tasks on one node, which is more than it claims processors: --overcommit."""
    return _wide("one-node", 1, ["-N1", "-O"])


def eight_nodes() -> Bed:
    """8 tasks on each of 8 nodes."""
    return _wide("eight-nodes", 8, ["-N8", "--ntasks-per-node=8"])


def _wide(name: str, nodes: int, layout: list[str]) -> Bed:
    bed = Bed(name, nodes)
    try:
        alice = bed.login("alice")
        root = bed.login("root")
        step = start(alice, TASKS, *layout)
        job = step.step.partition(".")[0]
        helper = ["srun", "--overlap", f"--jobid={job}", f"-N{nodes}", f"-n{nodes}", "true"]
        plain = median(lambda: must(alice, *helper))
        together = median(lambda: step.create("--image-dir", "."))
        shown = alice.pycr_json("show", "--image-dir", ".", step.step)
        frozen = max(task["frozen"] for task in shown["tasks"])
        independent = median(lambda: step.create("--image-dir", ".", "--independent"))
        step.goes_on()
        theirs = raw(root, TASKS, root.victim("tick.py"))
        bed.ratio("pycr create / criu dump of as many, and a plain srun", together, theirs + plain)
        bed.ratio("pycr create / pycr create --independent", together, independent)
        bed.ratio("the longest a task stood still / pycr create", frozen, together)
        step.vacate("--image-dir", ".")
        launch = median(lambda: must(alice, "srun", *layout, f"-n{TASKS}", "true"))
        again = median(lambda: step.restart(), 1)
        bed.ratio("pycr restart, until all tick / srun true of as many", again, launch)
        end_all([step])
    finally:
        bed.close()
    return bed
