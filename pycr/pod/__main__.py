# SPDX-License-Identifier: GPL-2.0-or-later
"""A pod's PID 1 as a program (spank_cr/pod.pxi): `python3 -I -m pycr.pod`."""

import sys

from pycr.pod.process import main

sys.exit(main())
