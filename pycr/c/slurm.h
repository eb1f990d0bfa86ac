/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * slurm_checkpoint(3) for a Slurm that has it no longer. Includes Slurm's own slurm.h; link with
 * -lpycr, and with -lslurm for slurm_perror(). Numbers and defaults are in the man page.
 *
 * step_id: a step; NO_VAL, every step of the job; SLURM_BATCH_SCRIPT, the batch script with its
 * steps. Pointers may be NULL. All return 0, or -1 with errno (slurm_get_errno()) set.
 */

#ifndef PYCR_SLURM_H
#define PYCR_SLURM_H

#include <stdint.h>
#include <time.h>
#include <slurm/slurm.h>
#include <slurm/slurm_version.h>

#if SLURM_VERSION_NUMBER < 0x160500
#error "pycr/slurm.h needs Slurm 22.05 or later: up to 19.05 its own slurm.h has these functions"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* start_time: when the checkpoint under way began, 0 where there is none. */
extern int slurm_checkpoint_able(uint32_t job_id, uint32_t step_id, time_t *start_time);

/* error_msg: what went wrong, for the highest error_code of all that is told about a checkpoint. */
extern int slurm_checkpoint_complete(uint32_t job_id, uint32_t step_id, time_t start_time,
				     uint32_t error_code, char *error_msg);

/* max_wait: seconds, 0 for pycr's default; image_dir: NULL for the job's or the site's. */
extern int slurm_checkpoint_create(uint32_t job_id, uint32_t step_id, uint16_t max_wait,
				   char *image_dir);

extern int slurm_checkpoint_disable(uint32_t job_id, uint32_t step_id);

extern int slurm_checkpoint_enable(uint32_t job_id, uint32_t step_id);

/* error_msg: becomes a string to free with free(3), or NULL where the call fails. */
extern int slurm_checkpoint_error(uint32_t job_id, uint32_t step_id, uint32_t *error_code,
				  char **error_msg);

extern int slurm_checkpoint_requeue(uint32_t job_id, uint16_t max_wait, char *image_dir);

/* stick: if not 0, on the nodes it was on. Batch jobs only: the job is submitted, not waited for. */
extern int slurm_checkpoint_restart(uint32_t job_id, uint32_t step_id, uint16_t stick,
				    char *image_dir);

/* nodelist: NULL for all of the step's nodes. */
extern int slurm_checkpoint_tasks(uint32_t job_id, uint32_t step_id, time_t begin_time,
				  char *image_dir, uint16_t max_wait, char *nodelist);

extern int slurm_checkpoint_vacate(uint32_t job_id, uint32_t step_id, uint16_t max_wait,
				   char *image_dir);

#ifdef __cplusplus
}
#endif

#endif
