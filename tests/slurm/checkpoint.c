/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Call one function of the library: `checkpoint FUNCTION JOB STEP|all|batch [MORE...]`, with MORE in
 * the order of the prototype. Prints "ok" and what was told, or the error number; slurm_perror's
 * words go to stderr.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pycr/slurm.h>
#include <pycr/slurm_errno.h>

int main(int argc, char **argv)
{
	char *none[4] = { NULL, NULL, NULL, NULL }, *message = NULL;
	char **more = argc > 4 ? argv + 4 : none;
	const char *name = argv[1], *which = argv[3];
	uint32_t job = atoi(argv[2]), step = atoi(which), code = 0;
	time_t began = 0;
	int rc = -2;
	if (!strcmp(which, "all"))
		step = NO_VAL;
	else if (!strcmp(which, "batch"))
		step = SLURM_BATCH_SCRIPT;
#define NUMBER(i) (more[i] ? strtoul(more[i], NULL, 10) : 0)
	if (!strcmp(name, "able"))
		rc = slurm_checkpoint_able(job, step, &began);
	else if (!strcmp(name, "complete"))
		rc = slurm_checkpoint_complete(job, step, NUMBER(0), NUMBER(1), more[2]);
	else if (!strcmp(name, "create"))
		rc = slurm_checkpoint_create(job, step, NUMBER(0), more[1]);
	else if (!strcmp(name, "disable"))
		rc = slurm_checkpoint_disable(job, step);
	else if (!strcmp(name, "enable"))
		rc = slurm_checkpoint_enable(job, step);
	else if (!strcmp(name, "error"))
		rc = slurm_checkpoint_error(job, step, &code, &message);
	else if (!strcmp(name, "requeue"))
		rc = slurm_checkpoint_requeue(job, NUMBER(0), more[1]);
	else if (!strcmp(name, "restart"))
		rc = slurm_checkpoint_restart(job, step, NUMBER(0), more[1]);
	else if (!strcmp(name, "tasks"))
		rc = slurm_checkpoint_tasks(job, step, NUMBER(0), more[1], NUMBER(2), more[3]);
	else if (!strcmp(name, "vacate"))
		rc = slurm_checkpoint_vacate(job, step, NUMBER(0), more[1]);
	if (rc == 0) {
		printf("ok %ld %u %s\n", (long)began, code, message ? message : "");
	} else {
		printf("%d\n", slurm_get_errno());
		slurm_perror("checkpoint");
	}
	free(message);
	return rc != 0;
}
