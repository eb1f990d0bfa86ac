# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of slurm/spank.h and slurm/slurm.h that the plugin uses (Slurm 22.05 to 26.05)."""

from libc.stdint cimport uint16_t, uint32_t


cdef extern from "<slurm/spank.h>" nogil:
    ctypedef struct spank_handle:
        pass
    ctypedef spank_handle *spank_t

    ctypedef enum spank_context_t:
        S_CTX_LOCAL
        S_CTX_REMOTE
        S_CTX_ALLOCATOR

    ctypedef enum spank_item_t:
        S_JOB_UID
        S_JOB_ID
        S_JOB_STEPID
        S_JOB_TOTAL_TASK_COUNT
        S_JOB_ARGV
        S_JOB_ENV
        S_JOB_ARRAY_ID
        S_TASK_ID
        S_TASK_GLOBAL_ID

    ctypedef int spank_err_t
    enum:
        ESPANK_SUCCESS

    ctypedef int (*spank_opt_cb_f)(int val, const char *optarg, int remote) noexcept nogil

    struct spank_option:
        char *name
        char *arginfo
        char *usage
        int has_arg
        int val
        spank_opt_cb_f cb

    spank_context_t spank_context()
    spank_err_t spank_option_register(spank_t sp, spank_option *opt)
    spank_err_t spank_get_item(spank_t sp, spank_item_t item, ...)
    spank_err_t spank_getenv(spank_t sp, const char *var, char *buf, int len)
    spank_err_t spank_setenv(spank_t sp, const char *var, const char *val, int overwrite)
    spank_err_t spank_unsetenv(spank_t sp, const char *var)
    void slurm_error(const char *fmt, ...)
    void slurm_debug(const char *fmt, ...)


cdef extern from *:
    """
    #include <slurm/slurm.h>
    #if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(26, 5, 0)
    #define slurm_free_ctl_conf slurm_free_conf
    #endif
    """


cdef extern from "<slurm/slurm.h>" nogil:
    # Only the members named here are used; the compiler takes their places from the header of
    # the Slurm release that the plugin is built for.
    ctypedef struct slurm_step_id_t:
        uint32_t job_id
        uint32_t step_id
        uint32_t step_het_comp

    ctypedef struct slurm_step_layout_t:
        char *node_list
        uint32_t task_cnt

    slurm_step_layout_t *slurm_job_step_layout_get(slurm_step_id_t *step_id)
    void slurm_job_step_layout_free(slurm_step_layout_t *layout)

    ctypedef struct partition_info_t:
        char *name
        uint16_t preempt_mode

    ctypedef struct partition_info_msg_t:
        uint32_t record_count
        partition_info_t *partition_array

    ctypedef struct slurm_conf_t:
        char *preempt_type

    int slurm_load_ctl_conf(long since, slurm_conf_t **found)
    void slurm_free_ctl_conf(slurm_conf_t *found)
    int slurm_load_partitions(long since, partition_info_msg_t **found, uint16_t flags)
    void slurm_free_partition_info_msg(partition_info_msg_t *found)

    enum: SHOW_ALL
    enum: PREEMPT_MODE_REQUEUE
    enum: PREEMPT_MODE_CANCEL
    uint32_t NO_VAL
    uint32_t SLURM_BATCH_SCRIPT
    uint32_t SLURM_MAX_NORMAL_STEP_ID
