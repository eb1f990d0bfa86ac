# SPDX-License-Identifier: GPL-2.0-or-later
"""Fault injection on the real cluster: `python3 -m tests.faults --rounds N --seed S`.

plan.py         what a round is, drawn from the seed
victims.py      the jobs that are checkpointed, and how their output is held against the truth
processes.py    the cluster's processes, seen from outside, by what they are to pycr
faults.py       the faults, a function each; places.py: those of image directories
scene.py        what a fault may touch, and how it is undone
round.py        one round: victim, checkpoint, fault, and what must be true afterwards
left.py         what must not be left on any node
__main__.py     the command line, and the table
"""
