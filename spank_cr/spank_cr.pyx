# SPDX-License-Identifier: GPL-2.0-or-later
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""spank_cr: checkpoint/restart of job steps as a SPANK plugin (spank(8)).

This file owns the callbacks Slurm knows; each goes to the file of its context. All is one
translation unit that never touches Python: srun and slurmstepd load no libpython, and the build
fails when the linked plugin refers to any of its symbols. So: only C types, nothing at module
scope but zeroes (module initialisers never run), `include` and not `cimport` between our files.
"""

from libc.errno cimport EACCES, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPIPE, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, exit, malloc, realloc
from libc.string cimport (memcpy, memset, strcat, strchr, strcmp, strcpy, strerror, strlen, strncmp,
                          strrchr)
from libc.time cimport time
from linux cimport *
from spank cimport *


cdef extern from *:
    """
    #include <slurm/spank.h>
    SPANK_PLUGIN(spank_cr, 1)
    """

include "config.pxi"
include "options.pxi"
include "oldnames.pxi"
include "privileged.pxi"
include "wrap.pxi"
include "inside.pxi"
include "srun.pxi"
include "batch.pxi"
include "keeper.pxi"
include "slurmstepd.pxi"
include "pod.pxi"


cdef public int slurm_spank_init(spank_t sp, int ac, char **av) noexcept nogil:
    cdef spank_context_t context = spank_context()
    cr_config_parse(ac, av)
    if context == S_CTX_LOCAL or context == S_CTX_ALLOCATOR or context == S_CTX_REMOTE:
        cr_options_register(sp)
    if context == S_CTX_LOCAL or context == S_CTX_ALLOCATOR:
        cr_srun_init(context == S_CTX_LOCAL)
    elif config.fault[0] != 0:
        # In the logs of slurmd and slurmstepd; srun says it when it matters (srun.pxi).
        slurm_error(b"cr: checkpoint/restart is off: %s", config.fault)
    return 0


cdef public int slurm_spank_init_post_opt(spank_t sp, int ac, char **av) noexcept nogil:
    cdef spank_context_t context = spank_context()
    if context == S_CTX_LOCAL or context == S_CTX_ALLOCATOR:
        return cr_srun_post_opt(sp, context == S_CTX_LOCAL)
    if context == S_CTX_REMOTE:
        cr_batch_post_opt(sp)
    return 0


cdef public int slurm_spank_local_user_init(spank_t sp, int ac, char **av) noexcept nogil:
    return cr_srun_local_user_init(sp)


cdef public int slurm_spank_user_init(spank_t sp, int ac, char **av) noexcept nogil:
    return cr_slurmstepd_user_init(sp)


cdef public int slurm_spank_task_init_privileged(spank_t sp, int ac, char **av) noexcept nogil:
    return cr_slurmstepd_task_init_privileged(sp)


cdef public int slurm_spank_task_init(spank_t sp, int ac, char **av) noexcept nogil:
    return cr_slurmstepd_task_init(sp)


cdef public int slurm_spank_exit(spank_t sp, int ac, char **av) noexcept nogil:
    if spank_context() == S_CTX_REMOTE:
        cr_batch_exit(sp)
    return 0
