# SPDX-License-Identifier: GPL-2.0-or-later
# The remote context (slurmstepd): turn the task of a helper step into the trusted helper, the task
# of a restart into a pod, and keep pycr's own variables out of every other task.

cdef struct cr_step:
    uint32_t job_id
    uint32_t step_id
    uint32_t task_id
    int local_id
    uint32_t tasks
    char node[256]
    char **variables                  # the task's environment, as Slurm made it


cdef cr_step cr_task                  # this task, once it is known to be a helper's or a pod's

cdef struct cr_environ:
    char path[PATH_SIZE + 64]
    char conf[PATH_SIZE + 16]
    const char *vector[4]


cdef void cr_reset_signals() noexcept nogil:
    cdef sigaction_t action
    cdef sigset_t none
    cdef int signo
    memset(&action, 0, sizeof(action))
    action.sa_handler = SIG_DFL
    for signo in range(1, NSIG):
        sigaction(signo, &action, NULL)
    sigemptyset(&none)
    sigprocmask(SIG_SETMASK, &none, NULL)


cdef bint cr_is_step(spank_t sp, uint32_t *step_id) noexcept nogil:
    """Tell whether this is a step of srun's own, not a batch script, an extern or the like."""
    return (spank_get_item(sp, S_JOB_STEPID, step_id) == ESPANK_SUCCESS and
            step_id[0] <= SLURM_MAX_NORMAL_STEP_ID)


cdef int cr_slurmstepd_user_init(spank_t sp) noexcept nogil:
    cdef uint32_t step_id = 0
    # srun's socket and directory are for that srun; a nested one must not take them for its own.
    spank_unsetenv(sp, b"SLURM_SRUN_CR_SOCKET")
    if cr_is_step(sp, &step_id):
        spank_unsetenv(sp, b"SLURM_RESTART_DIR")
        spank_unsetenv(sp, b"SLURM_RESTART_FILES")
        spank_unsetenv(sp, b"SLURM_CR_BATCH")
        spank_unsetenv(sp, b"SLURM_CR_GOES_ON")
    return 0


cdef int cr_slurmstepd_task_init_privileged(spank_t sp) noexcept nogil:
    cdef uint32_t step_id = 0
    cdef bint step = cr_is_step(sp, &step_id)
    cdef bint batch = cr_is_batch(sp)
    if step and options.helper[0] != 0 and cr_die_first() != 0:
        slurm_error(b"cr: couldn't set oom_score_adj: %s", strerror(errno))
    # Whether a batch script is to be restored is not known yet; if not, task_init gives it all up.
    if not batch and not (step and (options.restart_dir[0] != 0 or options.helper[0] != 0)):
        return 0
    if cr_caps_keep() != 0:
        slurm_error(b"cr: couldn't keep capabilities: %s", strerror(errno))
    return 0


cdef void cr_slurm_prefix(char *place, size_t size) noexcept nogil:
    """Write where Slurm is installed: PREFIX of this process's PREFIX/sbin/slurmstepd."""
    cdef long length = readlink(b"/proc/self/exe", place, size - 1)
    cdef int up
    place[length if length > 0 else 0] = 0
    for up in range(2):
        if strrchr(place, c'/') != NULL:
            strrchr(place, c'/')[0] = 0


cdef void cr_environment(cr_environ *into) noexcept nogil:
    """Make an environment from nothing, in which Slurm's own commands come first."""
    cdef char prefix[PATH_SIZE]
    cdef const char *conf = getenv(b"SLURM_CONF")      # slurmstepd's own: root's, not the job's
    cr_slurm_prefix(prefix, sizeof(prefix))
    snprintf(into.path, sizeof(into.path), b"PATH=%s/bin:/usr/sbin:/usr/bin:/sbin:/bin", prefix)
    into.vector[0] = into.path
    into.vector[1] = b"LC_ALL=C.UTF-8"
    into.vector[2] = NULL
    if conf != NULL and strlen(conf) < PATH_SIZE:
        snprintf(into.conf, sizeof(into.conf), b"SLURM_CONF=%s", conf)
        into.vector[2] = into.conf
        into.vector[3] = NULL


cdef void cr_end_step() noexcept nogil:
    """Have Slurm end the step: its other tasks must not go on without this one.

    As the user and without a capability. The step's end is this process's too.
    """
    cdef char scancel[PATH_SIZE + 16]
    cdef char name[32]
    cdef const char *argv[4]
    cdef cr_environ env
    cdef pid_t child
    cr_slurm_prefix(scancel, PATH_SIZE)
    strcat(scancel, b"/bin/scancel")
    snprintf(name, sizeof(name), b"%u.%u", cr_task.job_id, cr_task.step_id)
    cr_environment(&env)
    argv[0] = b"scancel"
    argv[1] = b"--signal=KILL"
    argv[2] = name
    argv[3] = NULL
    child = fork()
    if child == 0:
        execve(scancel, <char **> argv, <char **> env.vector)
        _exit(127)
    waitpid(child, NULL, 0)


cdef bint cr_leave(const char *directory, const char *name, int64_t number) noexcept nogil:
    """Leave an empty file in a directory, with a number behind its name if that is not negative."""
    cdef char path[2 * PATH_SIZE]
    cdef int fd
    if number < 0:
        snprintf(path, sizeof(path), b"%s/%s", directory, name)
    else:
        snprintf(path, sizeof(path), b"%s/%s.%u", directory, name, <uint32_t> number)
    # What its user has put there in its place must neither hold this up nor lead elsewhere.
    fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0o600)
    if fd < 0:
        return False
    close(fd)
    return True


cdef bint cr_tell_others() noexcept nogil:
    """Tell the step's other pods that this task cannot be restored, where they wait for it.

    As the user, and as pycr/pod/meeting.py does: in .restart-JOB.STEP beside the generation.
    """
    cdef char place[PATH_SIZE + 64]
    cdef char manifest[PATH_SIZE + 16]
    cdef int64_t task = cr_task.task_id
    strcpy(place, options.restart_dir)
    snprintf(manifest, sizeof(manifest), b"%s/manifest.json", place)
    if access(manifest, R_OK) == 0:
        strcat(place, b"/..")
    snprintf(place + strlen(place), 64, b"/.restart-%u.%u", cr_task.job_id, cr_task.step_id)
    mkdir(place, 0o700)
    return (cr_leave(place, b"failed", -1) and cr_leave(place, b"arrived", task) and
            cr_leave(place, b"left", task))


cdef void cr_task_fail(const char *what, const char *why) noexcept nogil:
    """End the task that could not become a helper or a pod: it must not run the user's command."""
    cr_caps_drop()
    slurm_error(b"cr: couldn't %s: %s", what, why)
    if options.restart_dir[0] != 0 and cr_task.tasks > 1:
        cr_reset_signals()
        if not cr_tell_others():
            cr_end_step()
    _exit(CR_EXIT_FAILED)


cdef void cr_absolute(char *path) noexcept nogil:
    """Make a path absolute, by the directory that the step starts in."""
    cdef char cwd[PATH_SIZE]
    cdef char full[2 * PATH_SIZE]
    if path[0] == 0 or path[0] == c'/' or getcwd(cwd, sizeof(cwd)) == NULL:
        return
    snprintf(full, sizeof(full), b"%s/%s", cwd, path)
    if strlen(full) < PATH_SIZE:
        strcpy(path, full)


cdef void cr_exec_helper(const char *module, cr_step *step, const char **more,
                         const char *doing) noexcept nogil:
    """Execute the trusted helper, with an environment made from nothing and no stray descriptor.

    Its words: JOB STEP TASK LOCAL_TASK TASKS NODE CRIU PARALLEL GHOST_LIMIT, then those in `more`.
    """
    cdef const char *argv[24]
    cdef char number[5][12]
    cdef cr_environ env
    cdef char fault[640]
    cdef int n = 0
    cdef int i
    if not cr_trusted(config.python, fault, sizeof(fault)):
        cr_task_fail(b"trust the helper's interpreter", fault)
    if config.criu[0] != 0 and not cr_trusted(config.criu, fault, sizeof(fault)):
        cr_task_fail(b"trust criu", fault)
    snprintf(number[0], 12, b"%u", step.job_id)
    snprintf(number[1], 12, b"%u", step.step_id)
    snprintf(number[2], 12, b"%u", step.task_id)
    snprintf(number[3], 12, b"%d", step.local_id)
    snprintf(number[4], 12, b"%u", step.tasks)
    argv[0] = config.python
    argv[1] = b"-I"
    argv[2] = b"-m"
    argv[3] = module
    for i in range(5):
        argv[4 + i] = number[i]
    argv[9] = step.node
    argv[10] = config.criu
    argv[11] = config.parallel
    argv[12] = config.ghost_limit
    n = 13
    i = 0
    while more[i] != NULL:
        argv[n] = more[i]
        n += 1
        i += 1
    argv[n] = NULL
    cr_environment(&env)
    execve(config.python, <char **> argv, <char **> env.vector)
    cr_task_fail(doing, strerror(errno))


cdef void cr_helper_run(cr_step *step) noexcept nogil:
    """Become the helper that dumps this node's tasks of the step that --cr-helper names."""
    cdef uint64_t mask = cr_caps_dump()
    cdef const char *more[2]
    # A dump never executes anything that raises privilege; a restore may not say so, since the
    # tasks it makes would inherit it.
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or cr_caps_ambient(mask) != 0:
        cr_task_fail(b"raise capabilities", strerror(errno))
    cr_reset_signals()
    more[0] = options.helper
    more[1] = NULL
    cr_exec_helper(b"pycr.node", step, more, b"execute the helper")


cdef void cr_task_script(spank_t sp) noexcept nogil:
    """Learn the file that Slurm has made of the batch script: its first word."""
    cdef int argc = 0
    cdef char **argv = NULL
    if (spank_get_item(sp, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS or argc < 1 or
            strlen(argv[0]) >= sizeof(cr_batch.script)):
        cr_task_fail(b"learn the batch script's file", b"spank_get_item failed")
    strcpy(cr_batch.script, argv[0])


cdef void cr_caps_fail(uint64_t mask, int error) noexcept nogil:
    """End a task that cannot have its capabilities, and say which one slurmd does not have."""
    cdef char what[64]
    cdef const char *lacking = cr_caps_lacking(mask)
    if lacking == NULL:
        cr_task_fail(b"narrow capabilities", strerror(error))
    snprintf(what, sizeof(what), b"have %s", lacking)
    cr_task_fail(what, b"slurmd has it not: give it back (CapabilityBoundingSet= of its unit)")


cdef int cr_slurmstepd_task_init(spank_t sp) noexcept nogil:
    cdef uint64_t mask
    cdef bint batch = cr_is_batch(sp)
    if not cr_is_step(sp, &cr_task.step_id) and not batch:
        return 0
    # First of all: what follows reads what the user has said. A process of root's has no use for
    # it; it is refused below, or goes on as it is.
    if getuid() != 0:
        cr_caps_narrow(cr_caps_dump() | cr_caps_restore() | <uint64_t> 1 << CAP_SYS_ADMIN)
    cr_absolute(options.restart_dir)
    cr_absolute(options.checkpoint_dir)
    cr_successor(options.restart_dir)
    if batch:
        options.helper[0] = 0
        cr_batch_variables(sp)
        # No capability is in effect.
        if not cr_batch_again(sp):
            cr_batch_first(sp)
        elif not (options.cr and cr_batch_find(sp, b"newest")):
            cr_batch_find(sp, b"requeue")
        cr_keeper_start(sp)
    cr_batch_tell(sp)
    if options.helper[0] == 0 and options.restart_dir[0] == 0:
        if batch and getuid() != 0:
            cr_caps_drop()
        elif not batch:
            cr_keeper_spare(sp)
        return 0
    if options.helper[0] != 0:
        mask = cr_caps_dump()
    else:
        mask = cr_caps_restore() | <uint64_t> 1 << CAP_SYS_ADMIN
    if getuid() == 0:
        # Root's own step: execve would give root everything back, whatever is dropped here.
        cr_task_fail(b"checkpoint or restart", b"not for steps of root")
    if cr_caps_set(mask) != 0:
        cr_caps_fail(mask, errno)
    if (spank_get_item(sp, S_JOB_ID, &cr_task.job_id) != ESPANK_SUCCESS or
            spank_get_item(sp, S_TASK_GLOBAL_ID, &cr_task.task_id) != ESPANK_SUCCESS or
            spank_get_item(sp, S_TASK_ID, &cr_task.local_id) != ESPANK_SUCCESS or
            spank_get_item(sp, S_JOB_TOTAL_TASK_COUNT, &cr_task.tasks) != ESPANK_SUCCESS or
            spank_getenv(sp, b"SLURMD_NODENAME", cr_task.node,
                         sizeof(cr_task.node)) != ESPANK_SUCCESS):
        cr_task_fail(b"learn the task's place", b"spank_get_item failed")
    if spank_get_item(sp, S_JOB_ENV, &cr_task.variables) != ESPANK_SUCCESS:
        cr_task_fail(b"learn the task's environment", b"spank_get_item failed")
    if batch:
        cr_task.tasks = 1
        cr_task_script(sp)
    if config.fault[0] != 0:
        cr_task_fail(b"checkpoint or restart", config.fault)
    if chdir(b"/") != 0 or syscall(SYS_close_range, 3, ~<unsigned int> 0, 0) != 0:
        cr_task_fail(b"close descriptors", strerror(errno))
    if options.helper[0] != 0:
        cr_helper_run(&cr_task)
    else:
        cr_pod_run(&cr_task)
    return 0
