# SPDX-License-Identifier: GPL-2.0-or-later
# The local context (srun, sbatch, salloc), as the user and without privilege: take the old
# environment variables, refuse what is wrong before the allocation, go under srun_cr for --cr
# (wrap.pxi), and tell srun_cr the step.


cdef enum:
    CR_SRUN_VARIABLES = 7


cdef void cr_srun_default(const char *variable, const char *option) noexcept nogil:
    """Hand an old environment variable to Slurm as the option it stands for.

    Slurm takes SLURM_SPANK__SLURM_SPANK_OPTION_<plugin>_<option> for a spank option and sends it
    on to slurmstepd; it reads them after this hook and before the command line, which wins.
    """
    cdef char name[128]
    cdef const char *value = getenv(variable)
    if value == NULL or value[0] == 0:
        return
    snprintf(name, sizeof(name), b"SLURM_SPANK__SLURM_SPANK_OPTION_spank_cr_%s", option)
    setenv(name, value, 0)


cdef void cr_srun_forget(const char *option) noexcept nogil:
    cdef char name[128]
    snprintf(name, sizeof(name), b"SLURM_SPANK__SLURM_SPANK_OPTION_spank_cr_%s", option)
    unsetenv(name)


cdef void cr_srun_variables(const char **names, const char **into) noexcept nogil:
    """List variables, without SLURM_ or SBATCH_, and the options they stand for."""
    names[0], into[0] = b"CHECKPOINT", b"checkpoint"
    names[1], into[1] = b"CHECKPOINT_DIR", b"checkpoint_dir"
    names[2], into[2] = b"RESTART_DIR", b"restart_dir"
    names[3], into[3] = b"RESTART_FILES", b"files"
    names[4], into[4] = b"CR_BEFORE_END", b"cr_before_end"
    names[5], into[5] = b"CR_FALLBACK", b"cr_fallback"
    names[6], into[6] = b"CR_KEEP", b"cr_keep"


cdef void cr_srun_defaults(const char *prefix) noexcept nogil:
    cdef const char *names[CR_SRUN_VARIABLES]
    cdef const char *into[CR_SRUN_VARIABLES]
    cdef char variable[64]
    cdef int i
    cr_srun_variables(names, into)
    for i in range(CR_SRUN_VARIABLES):
        snprintf(variable, sizeof(variable), b"%s%s", prefix, names[i])
        cr_srun_default(variable, into[i])


cdef void cr_srun_settings() noexcept nogil:
    """Leave an srun_cr that did not learn it from cr_wrap() what its srun was given, beside its
    socket."""
    cdef char path[128]
    cdef char text[PATH_SIZE + 512]
    cdef const char *socket_path = getenv(b"SLURM_SRUN_CR_SOCKET")
    cdef char *slash
    cdef int fd
    if socket_path == NULL or strlen(socket_path) >= sizeof(path) - 16:
        return
    strcpy(path, socket_path)
    slash = strrchr(path, c'/')
    cr_settings(text, sizeof(text))
    if slash == NULL or text[0] == 0:
        return
    strcpy(slash, b"/settings")
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
    if fd >= 0:
        if write(fd, text, strlen(text)) < 0:
            slurm_error(b"cr: couldn't tell srun_cr its settings: %s", strerror(errno))
        close(fd)


cdef void cr_srun_init(bint is_srun) noexcept nogil:
    cr_wrap_init()
    cr_inside_init()
    if is_srun:
        cr_srun_defaults(b"SLURM_")
    elif strcmp(program_invocation_short_name, b"sbatch") == 0:
        # Of the job that sbatch is run in: at a first start Slurm sets none, and the new job would
        # be taken for one that was started before (batch.pxi: cr_batch_again).
        unsetenv(b"SLURM_RESTART_COUNT")
        cr_srun_defaults(b"SBATCH_")


cdef void cr_srun_refuse(const char *option, const char *value, const char *why) noexcept nogil:
    # Slurm ignores what an optional plugin's hook returns, so the only way to refuse before the
    # allocation is to end, as srun itself does for a bad option.
    slurm_error(b"cr: %s%s: %s", option, value, why)
    exit(1)


cdef void cr_srun_check_dir(const char *option, const char *dir, int mode) noexcept nogil:
    cdef stat_t st
    if stat(dir, &st) != 0:
        cr_srun_refuse(option, dir, strerror(errno))
    elif not S_ISDIR(st.st_mode):
        cr_srun_refuse(option, dir, strerror(ENOTDIR))
    elif access(dir, mode) != 0:
        cr_srun_refuse(option, dir, strerror(errno))


cdef int cr_srun_post_opt(spank_t sp, bint is_srun) noexcept nogil:
    cdef const char *names[CR_SRUN_VARIABLES]
    cdef const char *into[CR_SRUN_VARIABLES]
    cdef int i
    cr_srun_variables(names, into)
    for i in range(CR_SRUN_VARIABLES):
        cr_srun_forget(into[i])
    if options.helper[0] != 0 and (options.cr or options.checkpoint or
                                   options.checkpoint_dir[0] != 0 or
                                   options.restart_dir[0] != 0):
        cr_srun_refuse(b"--cr-helper", b"", b"it is for pycr's own use and goes with no other")
    if config.fault[0] != 0 and (options.cr or options.restart_dir[0] != 0 or
                                 options.helper[0] != 0):
        cr_srun_refuse(b"", b"checkpoint/restart is off here", config.fault)
    if options.checkpoint_dir[0] != 0:
        cr_srun_check_dir(b"--checkpoint-dir=", options.checkpoint_dir, W_OK | X_OK)
    if options.restart_dir[0] != 0:
        cr_successor(options.restart_dir)
        if cr_is_blcr(options.restart_dir):
            cr_srun_refuse(b"--restart-dir=", options.restart_dir,
                           b"an image of BLCR, which CRIU cannot read: start the job anew")
        cr_srun_check_dir(b"--restart-dir=", options.restart_dir, R_OK | X_OK)
    if getenv(b"SLURM_SRUN_CR_SOCKET") != NULL:
        cr_srun_settings()
        return 0
    if is_srun and options.cr:
        cr_wrap()
    elif is_srun and options.checkpoint and getenv(b"SLURM_JOB_ID") == NULL:
        # In a job it may be the job's own, for those of its steps that have --cr.
        slurm_error(b"cr: --checkpoint does nothing without --cr: "
                    b"the step runs without checkpoints")
    return 0


cdef bint cr_srun_send(int fd, const void *data, size_t size) noexcept nogil:
    return send(fd, data, size, MSG_NOSIGNAL) == <long> size


cdef int cr_srun_local_user_init(spank_t sp) noexcept nogil:
    """Send job id, step id and nodelist to srun_cr, in the frame Slurm's own srun used.

        u32 job id | u32 step id | int n | n + 1 bytes of nodelist with its NUL    (native-endian)

    As in Slurm, a connection that fails is not an error: there is no srun_cr.
    """
    cdef const char *path = getenv(b"SLURM_SRUN_CR_SOCKET")
    cdef sockaddr_un address
    cdef slurm_step_id_t step
    cdef slurm_step_layout_t *layout
    cdef uint32_t job_id = 0
    cdef uint32_t step_id = 0
    cdef int length
    cdef int fd
    cr_keeper_tell()
    if path == NULL or strlen(path) >= sizeof(address.sun_path):
        return 0
    if (spank_get_item(sp, S_JOB_ID, &job_id) != ESPANK_SUCCESS or
            spank_get_item(sp, S_JOB_STEPID, &step_id) != ESPANK_SUCCESS):
        slurm_error(b"cr: couldn't learn the step's id for srun_cr")
        return 0
    memset(&step, 0, sizeof(step))
    step.job_id = job_id
    step.step_id = step_id
    step.step_het_comp = NO_VAL
    layout = slurm_job_step_layout_get(&step)
    if layout == NULL or layout.node_list == NULL:
        slurm_error(b"cr: couldn't learn the step's nodes for srun_cr: %s", strerror(errno))
        return 0
    memset(&address, 0, sizeof(address))
    address.sun_family = AF_UNIX
    strcpy(address.sun_path, path)
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)
    if fd >= 0 and connect(fd, &address, sizeof(address)) == 0:
        length = <int> strlen(layout.node_list)
        if not (cr_srun_send(fd, &job_id, sizeof(job_id)) and
                cr_srun_send(fd, &step_id, sizeof(step_id)) and
                cr_srun_send(fd, &length, sizeof(length)) and
                cr_srun_send(fd, layout.node_list, <size_t> length + 1)):
            slurm_error(b"cr: couldn't send the step's id to srun_cr: %s", strerror(errno))
    else:
        slurm_debug(b"cr: couldn't connect to %s: %s", path, strerror(errno))
    if fd >= 0:
        close(fd)
    slurm_job_step_layout_free(layout)
    return 0
