# SPDX-License-Identifier: GPL-2.0-or-later
"""What each round is: drawn from the seed and its number alone, so that any can be run again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from tests.faults.faults import BY_NAME_ONLY, FAULTS
from tests.faults.victims import Shape

NODES = ("n0", "n1", "n2", "n3")
LAYOUTS = ((1, 1), (2, 1), (2, 2), (4, 2))  # tasks, nodes
SIZES = (1, 1, 8, 48)  # MiB


class Plan(NamedTuple):
    """A round. moment: where in the time that its fault may come in, from 0 to 1."""

    seed: int
    number: int
    fault: str
    victim: str
    verb: str
    moment: float
    shape: Shape

    def dice(self) -> random.Random:
        """Return what else is to be drawn in this round."""
        return random.Random(f"{self.seed}/{self.number}/more")

    def __str__(self) -> str:
        tasks, nodes, mib = self.shape
        return (
            f"{self.number:3} {self.fault:<22} {self.victim:<8} {self.verb:<6}"
            f" {tasks} on {','.join(nodes)} {mib} MiB at {self.moment:.3f}"
        )


def draw(seed: int, number: int, names: Sequence[str]) -> Plan:
    """Return a round; the faults take turns, in another order each time."""
    cycle, place = divmod(number, len(names))
    order = list(names)
    random.Random(f"{seed}/order/{cycle}").shuffle(order)
    name = order[place]
    fault = FAULTS[name]
    dice = random.Random(f"{seed}/{number}")
    victim = dice.choice(fault.victims)
    verb = dice.choice(fault.verbs)
    moment = dice.random()
    tasks, count = dice.choice(LAYOUTS)
    mib = dice.choice(SIZES)
    nodes = tuple(sorted(dice.sample(NODES[1:] if name == "node_gone" else NODES, count)))
    if fault.one_node:
        nodes = NODES[:1]
        tasks, mib = min(tasks, 2), min(mib, 8)  # places.SIZE has to do
    return Plan(seed, number, name, victim, verb, moment, Shape(tasks, nodes, mib))


def names(wanted: Sequence[str], short: bool = False) -> list[str]:
    """Return the faults to draw from: the named ones, or all that may be drawn."""
    if wanted:
        return list(wanted)
    return [
        name
        for name, fault in FAULTS.items()
        if name not in BY_NAME_ONLY and (fault.short or not short)
    ]
