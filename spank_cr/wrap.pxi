# SPDX-License-Identifier: GPL-2.0-or-later
# srun --cr: go under srun_cr, before the allocation, as the user and without privilege.
#
#     srun --cr ...  =  this process   -- execve -->  srun_cr, which adopts the child
#                          `- fork -- execve -->  srun --cr ... with SLURM_SRUN_CR_SOCKET
#
# The socket is made and srun started again here, and not in srun_cr, so that Python starts beside
# srun and not before it: 20 ms of each `srun --cr`. Started by hand, srun_cr does both itself
# (pycr/srun_cr/command.py); what it is told here, in SRUN_CR_ variables, it tells nobody.

cdef sigset_t cr_mask                 # as the shell gave it, as far as srun leaves it to be seen
cdef bint cr_ignored[65]

cdef enum:
    CR_VARIABLES = 7                  # at most so many are added to an environment


cdef void cr_wrap_init() noexcept nogil:
    """Note the signal mask and dispositions that the shell gave, while they are to be seen."""
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
    for signo in range(1, 65):
        if sigaction(signo, NULL, &action) == 0:
            cr_ignored[signo] = action.sa_handler == SIG_IGN


cdef char **cr_strings(const char *path, size_t *count) noexcept nogil:
    """Return the NUL-ended strings of a /proc file as a vector with room for more, or NULL."""
    cdef int fd = open(path, O_RDONLY | O_CLOEXEC)
    count[0] = 0
    return cr_strings_of(fd, count) if fd >= 0 else NULL


cdef char **cr_strings_of(int fd, size_t *count) noexcept nogil:
    """Read a descriptor to its end, close it, and return its NUL-ended strings, or NULL."""
    cdef size_t size = 65536
    cdef size_t used = 0
    cdef size_t i
    cdef long got = -1
    cdef char *text = <char *> malloc(size)
    cdef char *grown
    cdef char **vector
    count[0] = 0
    while text != NULL:
        got = read(fd, text + used, size - used - 1)
        if got <= 0:
            break
        used += <size_t> got
        if size - used < 2:
            size *= 2
            grown = <char *> realloc(text, size)
            if grown == NULL:
                got = -1
                break
            text = grown
    close(fd)
    if text == NULL or got < 0:
        return NULL
    text[used] = 0
    for i in range(used):
        count[0] += text[i] == 0
    vector = <char **> calloc(count[0] + CR_VARIABLES + 2, sizeof(char *))
    if vector == NULL:
        return NULL
    count[0] = 0
    i = 0
    while i < used:
        vector[count[0]] = text + i
        count[0] += 1
        i += strlen(text + i) + 1
    return vector


cdef void cr_wrap_unlisten(char *path) noexcept nogil:
    """Remove the socket and its directory."""
    unlink(path)
    strrchr(path, c'/')[0] = 0
    rmdir(path)


cdef size_t cr_wrap_forget(char **given) noexcept nogil:
    """Drop what an outer srun_cr may have left in an environment; return how many are left.

    Of two variables of a name Python would take the first, which is not this one's.
    """
    cdef size_t kept = 0
    cdef size_t i = 0
    while given[i] != NULL:
        if (strncmp(given[i], b"SRUN_CR_", 8) != 0 and
                strncmp(given[i], b"SLURM_SRUN_CR_SOCKET=", 21) != 0):
            given[kept] = given[i]
            kept += 1
        i += 1
    memset(given + kept, 0, (i - kept) * sizeof(char *))      # more is put there
    return kept


cdef int cr_wrap_listen(char *path, size_t size) noexcept nogil:
    """Make srun_cr's socket in a directory of mode 0700; return its descriptor, or -1."""
    cdef sockaddr_un address
    cdef char directory[32]
    cdef int fd
    strcpy(directory, b"/tmp/srun_cr.XXXXXX")
    if mkdtemp(directory) == NULL:
        return -1
    snprintf(path, size, b"%s/socket", directory)
    memset(&address, 0, sizeof(address))
    address.sun_family = AF_UNIX
    strcpy(address.sun_path, path)
    fd = socket(AF_UNIX, SOCK_STREAM, 0)
    if fd < 0 or bind(fd, &address, sizeof(address)) != 0 or listen(fd, 16) != 0:
        if fd >= 0:
            close(fd)
        cr_wrap_unlisten(path)
        return -1
    return fd


cdef void cr_wrap_signals(const sigset_t *mask) noexcept nogil:
    """Give the next program the dispositions that the shell gave this one, and a mask."""
    cdef sigaction_t action
    cdef int signo
    memset(&action, 0, sizeof(action))
    for signo in range(1, 65):
        action.sa_handler = SIG_IGN if cr_ignored[signo] else SIG_DFL
        sigaction(signo, &action, NULL)
    sigprocmask(SIG_SETMASK, mask, NULL)


cdef bint cr_wrap_in_job() noexcept nogil:
    """Tell whether this runs in a batch script or a task, where it can be dumped with it.

    pycr/srun_cr/command.py decides by the same, in_job().
    """
    return (getenv(b"SLURM_JOB_ID") != NULL and getenv(b"SLURMD_NODENAME") != NULL and
            not isatty(0) and not isatty(1) and not isatty(2))


cdef void cr_wrap_exec(char **argv, size_t args, char **given) noexcept nogil:
    """Become srun_cr; returns only where that fails.

    -I -S: srun_cr needs neither site nor the user's PYTHON variables, and starts sooner.
    """
    cdef char **words = <char **> calloc(args + 5, sizeof(char *))
    if words == NULL:
        return
    words[0] = config.python
    words[1] = b"-I"
    words[2] = b"-S"
    words[3] = config.wrapper
    memcpy(words + 4, argv + 1, (args - 1) * sizeof(char *))
    execve(config.python, words, given)


cdef void cr_wrap() noexcept nogil:
    """Start srun again as a child and become srun_cr, which adopts it; returns only by exit.

    In a job srun_cr starts srun itself: srun must not be below it there (pycr/srun_cr/monitor.py).

    /proc/self/cmdline and environ still hold what execve(2) was given; srun has by now changed
    its own copies.
    """
    cdef size_t args = 0
    cdef size_t variables = 0
    cdef char **argv = cr_strings(b"/proc/self/cmdline", &args)
    cdef char **given = cr_strings(b"/proc/self/environ", &variables)
    cdef char srun[PATH_SIZE + 16]
    cdef char path[64]
    cdef char variable[CR_VARIABLES - 1][128]
    cdef char settings[PATH_SIZE + 512]
    cdef sigset_t every
    cdef sigaction_t action
    cdef bint terminal = tcgetpgrp(0) == getpgrp()
    cdef int signo
    cdef long length = readlink(b"/proc/self/exe", srun + 13, PATH_SIZE)
    cdef int listener
    cdef pid_t child
    if argv == NULL or given == NULL or length < 0 or args == 0:
        cr_srun_refuse(b"--cr", b"", b"couldn't read /proc/self")
        return
    if access(config.python, X_OK) != 0:
        cr_srun_refuse(b"couldn't execute ", config.python, strerror(errno))
    if access(config.wrapper, R_OK) != 0:
        cr_srun_refuse(b"couldn't execute ", config.wrapper, strerror(errno))
    variables = cr_wrap_forget(given)
    srun[13 + length] = 0
    memcpy(srun, b"SRUN_CR_SRUN=", 13)
    strcpy(settings, b"SRUN_CR_SETTINGS=")
    cr_settings(settings + 17, sizeof(settings) - 17)
    if cr_wrap_in_job():
        given[variables] = srun
        given[variables + 1] = settings if settings[17] != 0 else NULL
        cr_wrap_signals(&cr_mask)
        cr_wrap_exec(argv, args, given)
        cr_srun_refuse(b"couldn't execute ", config.python, strerror(errno))
    listener = cr_wrap_listen(path, sizeof(path))
    if listener < 0:
        cr_srun_refuse(b"--cr", b"", b"couldn't make a socket in /tmp")
    snprintf(variable[0], 128, b"SLURM_SRUN_CR_SOCKET=%s", path)
    given[variables] = variable[0]

    # No signal may end this process between the fork and srun_cr's handlers: it starts with all
    # of them blocked.
    sigfillset(&every)
    sigprocmask(SIG_SETMASK, &every, NULL)
    child = fork()
    if child < 0:
        signo = errno
        cr_wrap_unlisten(path)
        cr_srun_refuse(b"couldn't fork", b"", strerror(signo))
    if child == 0:
        close(listener)
        setpgid(0, 0)
        if terminal:
            tcsetpgrp(0, getpid())        # SIGTTOU is blocked, so that it works from behind
        cr_wrap_signals(&cr_mask)
        execve(srun + 13, argv, given)
        _exit(127)
    setpgid(child, child)                 # whoever of the two comes first

    given[variables] = srun
    snprintf(variable[1], 128, b"SRUN_CR_SOCKET=%s", path)
    snprintf(variable[2], 128, b"SRUN_CR_CHILD=%d", child)
    snprintf(variable[3], 128, b"SRUN_CR_LISTENER=%d", listener)
    snprintf(variable[4], 128, b"SRUN_CR_TERMINAL=%d", <int> terminal)
    # Python sets SIGPIPE and SIGXFSZ to ignored for itself: tell srun_cr what was so before.
    strcpy(variable[5], b"SRUN_CR_IGNORED=")
    for signo in range(1, 65):
        variable[5][15 + signo] = c'1' if cr_ignored[signo] else c'0'
    variable[5][80] = 0
    for signo in range(1, CR_VARIABLES - 1):
        given[variables + <size_t> signo] = variable[signo]
    given[variables + CR_VARIABLES - 1] = settings if settings[17] != 0 else NULL

    cr_wrap_signals(&every)
    # Ignored, the kernel would reap srun before srun_cr could; SRUN_CR_IGNORED tells how it was.
    memset(&action, 0, sizeof(action))
    sigaction(SIGCHLD, &action, NULL)
    cr_wrap_exec(argv, args, given)
    signo = errno
    kill(child, SIGKILL)
    waitpid(child, NULL, 0)
    cr_wrap_unlisten(path)
    cr_srun_refuse(b"couldn't execute ", config.python, strerror(signo))
