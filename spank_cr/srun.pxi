# SPDX-License-Identifier: GPL-2.0-or-later
# The local context (srun, sbatch, salloc), as the user and without privilege: take the old
# environment variables, refuse what is wrong before the allocation, go under srun_cr for --cr,
# and tell srun_cr the step.

cdef sigset_t cr_mask                 # as the shell gave it, as far as srun leaves it to be seen
cdef bint cr_ignored[128]


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


cdef void cr_srun_init(bint is_srun) noexcept nogil:
    cdef sigaction_t action
    cdef int blocked[10]
    cdef int signo
    sigprocmask(SIG_BLOCK, NULL, &cr_mask)
    # srun blocks these for itself before it loads plugins (srun_job.c and srun_pty.c, sig_array
    # and pty_sigarray). It would block them again, so to clear them loses nothing.
    blocked[:] = [SIGINT, SIGQUIT, SIGCONT, SIGTERM, SIGHUP, SIGALRM, SIGUSR1, SIGUSR2, SIGPIPE,
                  SIGWINCH]
    for signo in range(10):
        sigdelset(&cr_mask, blocked[signo])
    for signo in range(1, NSIG):
        if signo < 128 and sigaction(signo, NULL, &action) == 0:
            cr_ignored[signo] = action.sa_handler == SIG_IGN
    if is_srun:
        cr_srun_default(b"SLURM_CHECKPOINT", b"checkpoint")
        cr_srun_default(b"SLURM_CHECKPOINT_DIR", b"checkpoint_dir")
        cr_srun_default(b"SLURM_RESTART_DIR", b"restart_dir")
    elif strcmp(program_invocation_short_name, b"sbatch") == 0:
        cr_srun_default(b"SBATCH_CHECKPOINT", b"checkpoint")
        cr_srun_default(b"SBATCH_CHECKPOINT_DIR", b"checkpoint_dir")
        cr_srun_default(b"SBATCH_RESTART_DIR", b"restart_dir")


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


cdef char **cr_srun_strings(const char *path) noexcept nogil:
    """Return the NUL-ended strings of a /proc file as a vector, or NULL."""
    cdef int fd = open(path, O_RDONLY | O_CLOEXEC)
    cdef size_t size = 65536
    cdef size_t used = 0
    cdef size_t count = 0
    cdef size_t i
    cdef long got
    cdef char *text = <char *> malloc(size)
    cdef char *grown
    cdef char **vector
    if fd < 0 or text == NULL:
        return NULL
    while True:
        got = read(fd, text + used, size - used - 1)
        if got <= 0:
            break
        used += <size_t> got
        if size - used < 2:
            size *= 2
            grown = <char *> realloc(text, size)
            if grown == NULL:
                return NULL
            text = grown
    close(fd)
    if got < 0 or used == 0:
        return NULL
    text[used] = 0
    for i in range(used):
        count += text[i] == 0
    vector = <char **> calloc(count + 2, sizeof(char *))
    if vector == NULL:
        return NULL
    count = 0
    i = 0
    while i < used:
        vector[count] = text + i
        count += 1
        i += strlen(text + i) + 1
    return vector


cdef void cr_srun_wrap() noexcept nogil:
    """Execute srun_cr in place of this srun, with what the shell gave: argv, environ, signals.

    /proc/self/cmdline and environ still hold what execve(2) was given; srun has by now changed
    its own copies. CR_SRUN tells srun_cr which srun to start, and guards against a second turn.
    """
    cdef char **argv = cr_srun_strings(b"/proc/self/cmdline")
    cdef char **given = cr_srun_strings(b"/proc/self/environ")
    cdef char **envp
    cdef char srun[PATH_SIZE + 16]
    cdef char ignored[160]
    cdef sigaction_t action
    cdef size_t count = 0
    cdef int signo
    cdef long length
    if argv == NULL or given == NULL:
        cr_srun_refuse(b"--cr", b"", b"couldn't read /proc/self")
        return
    strcpy(srun, b"CR_SRUN=")
    length = readlink(b"/proc/self/exe", srun + 8, PATH_SIZE)
    if length < 0:
        cr_srun_refuse(b"--cr", b"", b"couldn't read /proc/self/exe")
        return
    srun[8 + length] = 0
    # Python sets SIGPIPE and SIGXFSZ to ignored for itself: tell srun_cr what was so before.
    strcpy(ignored, b"CR_IGNORED=")
    length = <long> strlen(ignored)
    for signo in range(1, 65):
        ignored[length + signo - 1] = c'1' if cr_ignored[signo] else c'0'
    ignored[length + 64] = 0
    while given[count] != NULL:
        count += 1
    envp = <char **> calloc(count + 3, sizeof(char *))
    if envp == NULL:
        cr_srun_refuse(b"--cr", b"", strerror(errno))
        return
    memcpy(envp, given, count * sizeof(char *))
    envp[count] = srun
    envp[count + 1] = ignored

    memset(&action, 0, sizeof(action))
    for signo in range(1, NSIG):
        if signo < 128:
            action.sa_handler = SIG_IGN if cr_ignored[signo] else SIG_DFL
            sigaction(signo, &action, NULL)
    sigprocmask(SIG_SETMASK, &cr_mask, NULL)
    argv[0] = config.wrapper
    execve(config.wrapper, argv, envp)
    cr_srun_refuse(b"couldn't execute ", config.wrapper, strerror(errno))


cdef int cr_srun_post_opt(spank_t sp, bint is_srun) noexcept nogil:
    cr_srun_forget(b"checkpoint")
    cr_srun_forget(b"checkpoint_dir")
    cr_srun_forget(b"restart_dir")
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
        cr_srun_check_dir(b"--restart-dir=", options.restart_dir, R_OK | X_OK)
    if not is_srun or not options.cr or getenv(b"SLURM_SRUN_CR_SOCKET") != NULL:
        return 0
    if getenv(b"CR_SRUN") != NULL:
        cr_srun_refuse(b"--cr", b"", b"srun_cr started srun without SLURM_SRUN_CR_SOCKET")
    cr_srun_wrap()
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
    if layout == NULL:
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
