# SPDX-License-Identifier: GPL-2.0-or-later
"""srun_cr: the process around srun, for `srun --cr` and by hand; in a job, the monitor too.

    bin/srun_cr -> command -> frames, process       outside of a job
                      `--> job -> step                in one: dumped and restored with the script
                             `- monitor -> keeper     srun's parent, outside of what is dumped

On the way of every `srun --cr`: what these import is counted in microseconds.
"""
