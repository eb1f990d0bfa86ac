# SPDX-License-Identifier: GPL-2.0-or-later
"""How often nodes of a partition fail, by what a user can see: for --checkpoint=auto.

    rate = (failures + 1) / (node time looked at + PRIOR)        of one node

The one failure in PRIOR is what is assumed where nothing was seen; what was seen outweighs it in
time. With accounting it is jobs that ended with NODE_FAIL; without it, or where it does not
answer, the nodes that do not answer now, against how long the others have been up.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pycr.errors import SlurmError
from pycr.keeper import plan
from pycr.slurm import commands

PRIOR = 365 * 86400.0  # seconds in which a node fails once, where nothing is known of it
LOOK_BACK = 90  # days of the accounting
LONGEST = 30 * 86400.0  # seconds up that count for a node: long ago it was another machine
NODE_FIELDS = ("FailedNode", "NodeList")  # of sacct: Slurm 22.05 has not got the first
LOST = re.compile(r"not responding|unexpectedly rebooted|node_fail", re.IGNORECASE)


class Seen(NamedTuple):
    """What was seen. node_time: seconds, of all nodes together. where: in which records."""

    failures: int
    node_time: float
    where: str

    @property
    def node_mtbf(self) -> float:
        """The mean time between failures of one node, in seconds."""
        return (self.node_time + PRIOR) / (self.failures + 1)


def by_uptime(nodes: Iterable[Mapping[str, str]], now: float) -> Seen:
    """Count a partition's nodes (scontrol's fields, times in seconds since the epoch)."""
    failures, node_time = 0, 0.0
    for node in nodes:
        down = re.search(r"DOWN|FAIL", node.get("State", "")) is not None
        failures += down and LOST.search(node.get("Reason", "")) is not None
        booted = node.get("BootTime", "")
        if booted.isdigit():
            node_time += min(LONGEST, max(0.0, now - int(booted)))
    return Seen(failures, node_time, "its nodes' time up")


def by_accounting(text: str, nodes: int, days: float) -> Seen:
    """Count what `sacct -DnPX -o End,FailedNode` prints: a failure may have ended many jobs."""
    lines = {line for line in text.splitlines() if line.strip()}
    return Seen(len(lines), nodes * days * 86400.0, f"{days:.0f} days of accounting")


def look(partition: str) -> Seen:
    """Ask Slurm. Where it says nothing the prior is left."""
    try:
        nodes = commands.nodes(partition)
        storage = commands.configuration().get("AccountingStorageType", "")
        if storage.endswith("slurmdbd"):
            since = time.strftime(
                "%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - LOOK_BACK * 86400)
            )
            # All lives of a job, of which failures may have ended several.
            words = ["-aDXnP", "-s", "NF", "-r", partition, "-S", since, "-E", "now"]
            for node in NODE_FIELDS:
                try:
                    text = commands.run("sacct", *words, "-o", f"End,{node}")
                    return by_accounting(text, len(nodes), LOOK_BACK)
                except SlurmError as error:
                    if "Invalid field" not in str(error):
                        break
        return by_uptime(nodes.values(), time.time())
    except SlurmError:
        return Seen(0, 0.0, "nothing: Slurm does not answer")


def choose(frozen: float, total: float, partition: str, nodes: int) -> tuple[float, str]:
    """Return the interval for a job of so many nodes of a partition, and how often these fail.

    frozen, total: see plan.interval().
    """
    seen = look(partition)
    mtbf = seen.node_mtbf / nodes
    what = f"{nodes} node{'s' if nodes > 1 else ''} of partition {partition}"
    why = f"{what} will run {plan.spell(mtbf)} between failures"
    return plan.interval(frozen, total, mtbf, 1.0), f"{why} ({seen.failures} seen in {seen.where})"
