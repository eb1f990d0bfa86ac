# SPDX-License-Identifier: GPL-2.0-or-later
"""Proofs: what happens to a job in a year, done to one on the real cluster, next to an unbroken run
of the same program.

    python -m tests.proofs [NAME...]        build/proofs/NAME/: what each has left

A proof is a module here with

    def run(alice: Login, out: Path) -> str

alice: a user with a fresh directory, on a cluster of four nodes that all answer. out: an empty
directory for what is worth keeping, job.py's record() for one. It returns a summary of one line,
and raises AssertionError where the broken run has left anything else than the unbroken one.

They take minutes, and are no part of `make test`: tests/slurm has a short form of most.
"""
