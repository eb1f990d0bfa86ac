# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine: what CRIU and /proc do for one task on this node, with no idea of Slurm.

`rpc` is CRIU's wire format, `criu` dumps and restores one process tree, `proc` reads what /proc
says of it.
"""
