# SPDX-License-Identifier: GPL-2.0-or-later
"""An array of twenty tasks of one CPU each, on a partition whose jobs are preempted: several of
them are, some twice, and each leaves what the same array leaves where nobody comes in between.

Steps of an array are kept one by one: each task has a keeper for its step, and its script begins
anew with each life; the step goes on.
"""

from __future__ import annotations

from pathlib import Path

from tests.login import Login, until
from tests.victims.scripted import ENDED, Left

from .job import Job, jobs_of_array, record, same, spell

TASKS = 20
ROUNDS, SECONDS = 200, 0.3
# $1: the directory; what a task of the array writes is in its own. The script begins anew: it
# removes nothing, and appends nothing that would be there twice.
SCRIPT = f"""#!/bin/bash
#SBATCH --array=1-{TASKS} --ntasks=1 --cpus-per-task=1 --open-mode=append
mkdir -p $SLURM_ARRAY_TASK_ID
cd $SLURM_ARRAY_TASK_ID
srun --cr ../proof.py 1 {ROUNDS} {SECONDS} > out
echo "$SLURM_ARRAY_TASK_ID ended with $?" > end
"""
PREEMPTED = ("n2", "n3", "n2")
