# SPDX-License-Identifier: GPL-2.0-or-later
# The remote context: start the keeper (pycr/keeper) of a batch job submitted with --cr, and keep
# a SIGTERM from tasks that are to be checkpointed for it, which srun finds out (local context).
#
#     slurmstepd -- this process, becomes the script or its pod
#                     `- fork, ends `- fork, exec: pycr.keeper, nobody's child
#
# As the user, without a capability, a descriptor or a variable of the script's.


cdef bint cr_keeper_of_steps(spank_t sp) noexcept nogil:
    """Tell whether a job's script cannot be checkpointed yet: that of an array, or heterogeneous.

    Variables that say so may be of another job: that in whose script sbatch was run.
    """
    cdef char value[32]
    cdef char job[12]
    cdef uint32_t number = 0
    if (spank_get_item(sp, S_JOB_ARRAY_ID, &number) == ESPANK_SUCCESS and
            number != 0 and number != NO_VAL):
        return True
    if (spank_getenv(sp, b"SLURM_HET_SIZE", value, sizeof(value)) != ESPANK_SUCCESS or
            spank_get_item(sp, S_JOB_ID, &number) != ESPANK_SUCCESS):
        return False
    snprintf(job, sizeof(job), b"%u", number)
    return (spank_getenv(sp, b"SLURM_JOB_ID_HET_GROUP_0", value,
                         sizeof(value)) != ESPANK_SUCCESS or strcmp(value, job) == 0)


cdef bint cr_keeper_wanted(spank_t sp) noexcept nogil:
    """Tell whether a batch job asks for a keeper; whether there is something to do, it sees itself.

    Not for scripts that cannot be checkpointed yet: their steps have keepers of their own.
    """
    return options.cr and config.fault[0] == 0 and not cr_keeper_of_steps(sp) and (
        options.checkpoint != 0 or options.before_end != CR_NEVER)


cdef void cr_keeper_exec(uint32_t job_id, pid_t watch) noexcept nogil:
    """Become the keeper."""
    cdef const char *argv[9]
    cdef char target[24]
    cdef char number[12]
    cdef char settings[PATH_SIZE + 512]
    cdef cr_environ env
    cdef int null
    cr_reset_signals()
    null = open(b"/dev/null", O_RDWR)
    if (null < 0 or dup2(null, 0) < 0 or dup2(null, 1) < 0 or dup2(null, 2) < 0 or
            chdir(b"/") != 0 or syscall(SYS_close_range, 3, ~<unsigned int> 0, 0) != 0):
        return
    snprintf(target, sizeof(target), b"%u.batch", job_id)
    snprintf(number, sizeof(number), b"%d", watch)
    cr_settings(settings, sizeof(settings))
    cr_environment(&env)
    argv[0] = config.python
    argv[1] = b"-I"
    argv[2] = b"-m"
    argv[3] = b"pycr.keeper"
    argv[4] = target
    argv[5] = number
    argv[6] = settings
    argv[7] = options.restart_dir
    argv[8] = NULL
    execve(config.python, <char **> argv, <char **> env.vector)


cdef void cr_keeper_start(spank_t sp) noexcept nogil:
    """Start it beside a batch script, and tell what runs in the script that there is one."""
    cdef uint32_t job_id = 0
    cdef char value[32]
    cdef pid_t script = getpid()
    cdef pid_t child
    if (not cr_keeper_wanted(sp) or getuid() == 0 or
            spank_get_item(sp, S_JOB_ID, &job_id) != ESPANK_SUCCESS):
        return
    snprintf(value, sizeof(value), b"%u:%d", job_id, options.checkpoint)
    spank_setenv(sp, b"SLURM_CR_KEEPER", value, 1)
    child = fork()
    if child < 0:
        slurm_error(b"cr: couldn't start the job's keeper: %s", strerror(errno))
        return
    if child > 0:
        waitpid(child, NULL, 0)
        return
    # This is slurmstepd's memory, the user's process: unreadable from before it is without what
    # keeps it so. The exec ends that.
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if cr_caps_drop() == 0 and fork() == 0:
        setsid()
        cr_keeper_exec(job_id, script)
    _exit(0)


cdef bint cr_keeper_looks_after() noexcept nogil:
    """Tell, in srun, whether a keeper checkpoints this step before Slurm ends it: its own, or that
    of the batch job that it is in."""
    cdef const char *kept = getenv(b"SLURM_CR_KEEPER")
    cdef const char *job = getenv(b"SLURM_JOB_ID")
    if not options.cr or options.before_end == CR_NEVER:
        return False
    return options.before_end != 0 or (kept != NULL and job != NULL and
                                       strncmp(kept, job, strlen(job)) == 0 and
                                       kept[strlen(job)] == c':')


cdef bint cr_keeper_preemptible() noexcept nogil:
    """Tell, in srun, whether jobs of its partition, or of a QOS, may be preempted by a signal."""
    cdef partition_info_msg_t *found = NULL
    cdef const char *mine = getenv(b"SLURM_JOB_PARTITION")
    cdef bint may = False
    cdef uint32_t i
    if mine == NULL or slurm_load_partitions(0, &found, SHOW_ALL) != 0:
        return False
    for i in range(found.record_count):
        if strcmp(found.partition_array[i].name, mine) == 0:
            may = (found.partition_array[i].preempt_mode &
                   (PREEMPT_MODE_REQUEUE | PREEMPT_MODE_CANCEL)) != 0
    slurm_free_partition_info_msg(found)
    return may or cr_keeper_preempted_by_qos()


cdef bint cr_keeper_preempted_by_qos() noexcept nogil:
    """Tell, in srun, whether jobs are preempted by their QOS, whatever their partition says of it.

    Not whether this one may be: which QOS preempts which is not asked for.
    """
    cdef slurm_conf_t *found = NULL
    cdef bint does
    if slurm_load_ctl_conf(0, &found) != 0:
        return False
    does = found.preempt_type != NULL and strcmp(found.preempt_type, b"preempt/qos") == 0
    slurm_free_ctl_conf(found)
    return does


cdef void cr_keeper_tell() noexcept nogil:
    """Have slurmstepd spare the step's tasks, where they may be preempted (cr_keeper_spare)."""
    unsetenv(b"SLURM_CR_SPARE")
    if cr_keeper_looks_after() and cr_keeper_preemptible():
        setenv(b"SLURM_CR_SPARE", b"1", 1)


cdef void cr_keeper_spare(spank_t sp) noexcept nogil:
    """Have a step's task begin with SIGTERM ignored where a keeper checkpoints it in its stead.

    Slurm sends it to every process of a preempted job's steps, at once, and only then anybody can
    know; what does nothing about it would be dead before it could be checkpointed.
    """
    cdef char told[4]
    cdef sigaction_t action
    if spank_getenv(sp, b"SLURM_CR_SPARE", told, sizeof(told)) != ESPANK_SUCCESS:
        return
    spank_unsetenv(sp, b"SLURM_CR_SPARE")
    memset(&action, 0, sizeof(action))
    action.sa_handler = SIG_IGN
    sigaction(SIGTERM, &action, NULL)
