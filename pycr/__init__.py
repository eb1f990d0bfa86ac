# SPDX-License-Identifier: GPL-2.0-or-later
"""pycr: transparent checkpoint/restart of Slurm job steps and batch jobs."""

__version__ = "0.1.0"
