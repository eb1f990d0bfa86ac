# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints on disk, and nothing of how they are made: names, manifests, space, what is removed.

writer -> image, manifest         a generation, visible whole or not at all
requeue, late                     what lies beside it: for Slurm's next start; output yet to come
removal <- retention, gc, sweep   what goes, by count, by age, over all users
"""
