/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Slurm's error numbers, and slurm_get_errno(), which Slurm itself has no longer from 24.11. */

#ifndef PYCR_SLURM_ERRNO_H
#define PYCR_SLURM_ERRNO_H

#include <errno.h>
#include <slurm/slurm_errno.h>
#include <slurm/slurm_version.h>

#if SLURM_VERSION_NUMBER >= 0x180b00
/* Always was errno of this thread, and slurm_perror() still prints that. */
static inline int slurm_get_errno(void)
{
	return errno;
}
#endif

#endif
