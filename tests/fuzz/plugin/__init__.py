# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin's parsers as fuzz targets in C, each with the system calls that it makes stubbed."""
