#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Victim: writes "RANK NAME" for every USR1, USR2, HUP and CONT it gets; TERM ends it with 15.

They are blocked and waited for, so that one which comes twice is written twice. A thread ticks all
the while: the size of `beat.RANK` grows, as tick.py's does.
"""

import itertools
import os
import signal
import threading
import time
from pathlib import Path

rank = int(os.environ["SLURM_PROCID"])
beat = Path(f"beat.{rank}")


def tick() -> None:
    for number in itertools.count(1):
        os.truncate(beat, number)
        time.sleep(0.01)


signals = [signal.Signals[f"SIG{name}"] for name in ("USR1", "USR2", "HUP", "CONT", "TERM")]
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
beat.touch()
threading.Thread(target=tick, daemon=True).start()
while True:
    got = signal.Signals(signal.sigwaitinfo(signals).si_signo)
    os.write(1, b"%d %s\n" % (rank, got.name[3:].encode()))
    if got == signal.SIGTERM:
        os._exit(15)
