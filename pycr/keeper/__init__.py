# SPDX-License-Identifier: GPL-2.0-or-later
"""The keeper: checkpoints a step or a batch job from time to time, and before Slurm ends it.

    slurmstepd - (orphan) keeper of a batch job        started by the plugin (keeper.pxi)
    srun_cr    - keeper of a step                      on a login node, in salloc
    monitor    - keeper of a step                      in a batch script: not in its tree

`plan` has the times and intervals, as arithmetic alone; `failures` what is known of nodes that
fail; `ask` what Slurm says of the job; `process` does it: it runs `pycr create`, `vacate` and
`requeue`, one at a time, as its user would. It ends with what it looks after.

    python -I -m pycr.keeper JOB.STEP|JOB.batch -|PID SETTINGS [GENERATION]

-: its parent holds the other end of its standard input, and is told by its standard output:

    t  parent -> keeper    a SIGTERM came: checkpoint, and end the step
    h  keeper -> parent    the step is ended now, and its job put back: wait for this one's end
    f  keeper -> parent    that came to nothing: go on as without a keeper
"""

MODULE = "pycr.keeper"
COMM = "pycr-keeper"  # 15 bytes at most
PARENT = "-"  # in place of the process to end with
VARIABLE = (
    "SLURM_CR_KEEPER"  # spank_cr/keeper.pxi: JOB:SECONDS, for what runs in a job that has one
)
TERM, HOLD, FAILED = b"t", b"h", b"f"
