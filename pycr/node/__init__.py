# SPDX-License-Identifier: GPL-2.0-or-later
"""The dump helper: in a helper step, one a node, as the job's user, with CAP_CHECKPOINT_RESTORE.

coordinator -> __main__ -> dumper (a step's tasks) or script (a batch script)
                              |- task      one of them, dumped by CRIU
                              `- relay     one that was restored: its pod dumps it
"""
