# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a job's time went: `history` finds the facts, `account` reckons, the others show it."""
