# SPDX-License-Identifier: GPL-2.0-or-later
"""What the user's own process does about running jobs: checkpoint them, and say how they stand.

    cli -> control -> batch, step -> helpers -> (srun) -> node/ on every node
                          |- slots, limits      whether it may be made, now
                          `- record             the journal, and the site's program behind it

`drain` does it for all jobs of nodes, `resubmit` has a batch job's checkpoint go on as a job.
"""
