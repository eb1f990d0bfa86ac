# SPDX-License-Identifier: GPL-2.0-or-later
"""`python3 -m pycr.cli`: the command, where it is not installed."""

import sys

from pycr.cli import main

sys.exit(main())
