# SPDX-License-Identifier: GPL-2.0-or-later
# Running pycr from within somebody else's program, which notices nothing of it.
#
#     the program                between                        pycr
#     -----------                -------                        ----
#     pipes, close-on-exec
#     clone, no exit signal ---> closes all but the pipes
#       |                        clone -----------------------> execve, clean
#       |<--- text --------------------------------------------- stdout
#       |                        waits for it
#       |<--- how it ended ----- and ends
#     waits (__WALL)
#
# The one between is there for the program's sake: it ends without a SIGCHLD, so no handler of the
# program's runs, no wait(2) for any child finds it, and an ignored SIGCHLD does not reap it. execve
# would undo that (the exit signal becomes SIGCHLD), so pycr itself is its child. How pycr ended
# comes by a pipe: even a program that waits with __WALL takes nothing that is needed.
# Between clone and execve only what signal-safety(7) allows: another thread may have held any lock.

cdef enum:
    OUTPUT = 16384  # bytes kept of what pycr prints; the rest is read and dropped


cdef struct cr_ended_t:
    int status  # as of wait(2)
    int error   # why it could not be run, or 0


cdef void cr_close_from(unsigned int first) noexcept nogil:
    """Close every descriptor from `first` on, also where a sandbox refuses close_range(2)."""
    cdef rlimit limit
    cdef unsigned int fd
    if syscall(SYS_close_range, first, ~<unsigned int> 0, 0) == 0:
        return
    if getrlimit(RLIMIT_NOFILE, &limit) != 0 or limit.rlim_cur > 1 << 20:
        limit.rlim_cur = 1 << 20
    for fd in range(first, <unsigned int> limit.rlim_cur):
        close(<int> fd)


cdef void cr_tell(int told, const cr_ended_t *ended) noexcept nogil:
    """Tell the program how it ended, and end. Nobody is left to hear of it when that fails."""
    _exit(0 if write(told, ended, sizeof(cr_ended_t)) == sizeof(cr_ended_t) else 1)


cdef void cr_execute(char **argv, char **envp) noexcept nogil:
    """Become pycr; with the pipe to the program as descriptor 3, which tells when that fails."""
    cdef cr_ended_t ended
    cdef sigset_t none
    memset(&ended, 0, sizeof(ended))
    fcntl(3, F_SETFD, FD_CLOEXEC)
    sigemptyset(&none)
    sigprocmask(SIG_SETMASK, &none, NULL)
    execve(argv[0], argv, envp)
    ended.error = errno
    cr_tell(3, &ended)


cdef void cr_between(int out, int told, char **argv, char **envp) noexcept nogil:
    """Start pycr with nothing of the program's, wait for it and tell how it ended."""
    cdef cr_ended_t ended
    cdef sigaction_t action
    cdef pid_t pid
    cdef int signo
    cdef int null
    memset(&ended, 0, sizeof(ended))
    memset(&action, 0, sizeof(action))
    action.sa_handler = SIG_DFL
    for signo in range(1, NSIG):
        sigaction(signo, &action, NULL)
    # Away from 0 to 2 first: the program may have closed those, and a pipe taken their place.
    out = fcntl(out, F_DUPFD, 3)
    told = fcntl(told, F_DUPFD, 3)
    null = open(b"/dev/null", O_RDWR)
    if out < 0 or told < 0 or null < 0 or dup2(null, 0) < 0 or dup2(null, 2) < 0 \
            or dup2(out, 1) < 0 or dup2(told, 3) < 0:
        ended.error = errno
        cr_tell(told, &ended)
    cr_close_from(4)
    pid = <pid_t> syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        cr_execute(argv, envp)
    dup2(0, 1)
    if pid < 0 or waitpid(pid, &ended.status, 0) != pid:
        ended.error = errno
    cr_tell(3, &ended)


cdef bint cr_read(int fd, char *text, size_t *length) noexcept nogil:
    """Read what there is without waiting for more; return whether more may come."""
    cdef char rest[512]
    cdef size_t room
    cdef long size
    while True:
        room = OUTPUT - 1 - length[0]
        if room > 0:
            size = read(fd, text + length[0], room)
        else:
            size = read(fd, rest, sizeof(rest))
        if size > 0 and room > 0:
            length[0] += <size_t> size
        if size == 0 or (size < 0 and errno != EINTR):
            return size < 0 and errno == EAGAIN


cdef void cr_hear(int out, int told, char *text, cr_ended_t *ended) noexcept nogil:
    """Read until it is told how pycr ended.

    Not until its output ends: what another thread of the program forks just now holds that open.
    """
    cdef pollfd fds[2]
    cdef size_t length = 0
    cdef long size = 0
    fds[0].fd = out
    fds[1].fd = told
    while True:
        fds[0].events = fds[1].events = POLLIN
        fds[0].revents = fds[1].revents = 0
        if poll(fds, 2, -1) < 0:
            if errno == EINTR:
                continue
            ended.error = errno
            break
        if fds[0].revents != 0 and not cr_read(out, text, &length):
            fds[0].fd = -1
        if fds[1].revents != 0:
            size = read(told, ended, sizeof(cr_ended_t))
            if size < 0 and (errno == EINTR or errno == EAGAIN):
                continue
            if size != sizeof(cr_ended_t):
                ended.error = SLURM_ERROR  # the one between was killed
            break
    if fds[0].fd >= 0:
        cr_read(out, text, &length)
    text[length] = 0


cdef int cr_start(int *out, int *told, cr_words_t *argv, cr_words_t *env, char *text,
                  cr_ended_t *ended) noexcept nogil:
    """Run pycr with these pipes; return an error number, 0 for none. Closes them."""
    cdef sigset_t every
    cdef sigset_t before
    cdef pid_t pid
    cdef int number = 0
    # No handler of the program's may run in what is cloned.
    sigfillset(&every)
    pthread_sigmask(SIG_SETMASK, &every, &before)
    pid = <pid_t> syscall(SYS_clone, 0, 0, 0, 0, 0)
    if pid == 0:
        cr_between(out[1], told[1], argv.word, env.word)
    if pid < 0:
        number = errno
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    close(out[1])
    close(told[1])
    if pid > 0:
        cr_hear(out[0], told[0], text, ended)
    close(out[0])
    close(told[0])
    while pid > 0 and waitpid(pid, NULL, WALL) < 0 and errno == EINTR:
        pass
    return number


cdef int cr_open(int *fds) noexcept nogil:
    """Make a pipe that is read without waiting. Return an error number, 0 for none."""
    if pipe2(fds, O_CLOEXEC) != 0:
        return errno
    fcntl(fds[0], F_SETFL, O_NONBLOCK)
    return 0


cdef int cr_run(cr_words_t *argv, char **text, int *status) noexcept nogil:
    """Run pycr to its end.

    text: what it printed, to free; status: its exit status. Returns an error number, 0 for none;
    errno stays as it was.
    """
    cdef cr_words_t env
    cdef cr_ended_t ended
    cdef int out[2]
    cdef int told[2]
    cdef int number
    cdef int before = errno
    cdef int state = 0
    if argv.error != 0:
        return argv.error
    if cr_pycr[0] == 0:
        return ESLURM_NOT_SUPPORTED
    memset(&ended, 0, sizeof(ended))
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state)
    cr_environment(&env)
    text[0] = <char *> calloc(1, OUTPUT)
    number = ENOMEM if text[0] == NULL else env.error
    if number == 0:
        number = cr_open(out)
    if number == 0:
        number = cr_open(told)
        if number == 0:
            number = cr_start(out, told, argv, &env, text[0], &ended)
        else:
            close(out[0])
            close(out[1])
    cr_free(&env)
    pthread_setcancelstate(state, NULL)
    set_errno(before)
    if number == 0 and ended.error != 0:
        number = ended.error
        if number in (ENOENT, EACCES, ENOTDIR, ELOOP, ENOEXEC, EPERM):
            number = ESLURM_NOT_SUPPORTED  # pycr is not there, or not for this user
    if number == 0:
        if WIFEXITED(ended.status):
            status[0] = WEXITSTATUS(ended.status)
        elif WTERMSIG(ended.status) in (SIGHUP, SIGINT, SIGTERM):
            number = EINTR
        else:
            number = SLURM_ERROR
    return number
