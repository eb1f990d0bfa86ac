# SPDX-License-Identifier: GPL-2.0-or-later
"""A pod: the PID and mount namespace that a restored task, or batch script, lives in.

spank_cr/pod.pxi -> __main__ -> process (PID 1)
                      |- restore -> files, hidden, settled     CRIU, and the files it needs
                      |- meeting                               until all tasks are there
                      `- worker                                has it dumped again
"""
