# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests that drive the SPANK plugin's callbacks without Slurm."""
