#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Victim: a short step of a batch script: COUNT lines "NAME.TASK NUMBER", 0.1 s apart; exits with
# STATUS. With HALVES in its environment a checkpoint can come between the halves of a line.
# One that is called "last" waits in the end for a file of the name "end".
# usage: say.sh NAME COUNT [STATUS]
for ((number = 1; number <= $2; number++)); do
	if [ -n "$HALVES" ]; then
		printf '%s.%s ' "$1" "$SLURM_PROCID"
		sleep 0.05
		printf '%s\n' "$number"
		sleep 0.05
	else
		printf '%s.%s %s\n' "$1" "$SLURM_PROCID" "$number"
		sleep 0.1
	fi
done
if [ "$1" = last ]; then
	until [ -e end ]; do sleep 0.05; done
fi
exit "${3:-0}"
