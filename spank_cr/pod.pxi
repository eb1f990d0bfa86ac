# SPDX-License-Identifier: GPL-2.0-or-later
# A restart's task: the pod, in which criu restores the task, and its parent, which Slurm knows as
# the task.
#
#   slurmstepd -- parent (this process, no caps) == ctl, status == pod: PID 1 (pycr.pod)
#                   signals -> one byte on ctl                            `- the restored task
#                   its own end <- wait status on status
#
# A signal goes to PID 1 as a byte, not as a signal: some process-tracking plugins signal every
# process of a step themselves, so only PID 1 can tell whether to pass it on (pycr/pod/process.py).

cdef enum:
    CR_EXIT_FAILED = 125          # errors.py: RestoreFailed


cdef void cr_pod_end(int status) noexcept nogil:
    """End as the restored task ended; without a core, which would be this process's, not its."""
    cdef rlimit none
    cdef sigset_t mask
    if WIFSIGNALED(status):
        none.rlim_cur = 0
        none.rlim_max = 0
        setrlimit(RLIMIT_CORE, &none)
        # Only this signal is let through: another that is pending would be how the task ended.
        sigfillset(&mask)
        sigdelset(&mask, WTERMSIG(status))
        kill(getpid(), WTERMSIG(status))
        sigprocmask(SIG_SETMASK, &mask, NULL)
    _exit(WEXITSTATUS(status) if WIFEXITED(status) else CR_EXIT_FAILED)


cdef void cr_pod_parent(pid_t pod, int ctl, int status_fd) noexcept nogil:
    cdef sigset_t every
    cdef int null
    cdef int status = 0
    cdef int ended = 0
    cdef int signo
    cdef char byte
    # This is still slurmstepd's memory, now the user's process: keep it unreadable for them, from
    # before it loses what keeps them from it.
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if cr_caps_drop() != 0:
        kill(pod, SIGKILL)
        cr_task_fail(b"drop capabilities", strerror(errno))
    prctl(PR_SET_NAME, <const char *> b"pycr-pod", 0, 0, 0)   # by which pycr.node knows a pod
    null = open(b"/dev/null", O_RDWR)
    if null >= 0:
        dup2(null, 0)
        dup2(null, 1)
        dup2(null, 2)
        if null > 2:
            close(null)
    fcntl(ctl, F_SETFL, O_NONBLOCK)
    sigfillset(&every)
    while True:
        signo = sigwaitinfo(&every, NULL)
        if signo == SIGCHLD:
            if waitpid(pod, &status, WNOHANG) == pod:
                break
        elif signo > 0 and ctl >= 0:
            byte = <char> signo
            # A full pipe means that PID 1 has stopped reading: nothing could be done with it. A
            # broken one makes a SIGPIPE, which is next and must not be forwarded in turn: being
            # the lower number it would for ever come before SIGCHLD.
            if write(ctl, &byte, 1) < 0 and errno == EPIPE:
                close(ctl)
                ctl = -1
    # PID 1 cannot die of its task's signal in its own namespace, so it writes the status down.
    if read(status_fd, &ended, sizeof(ended)) == sizeof(ended):
        status = ended
    cr_pod_end(status)


cdef int cr_pod_variables(cr_step *step) noexcept nogil:
    """Return a memfd with the SLURM variables that this task would have had, each with its NUL.

    The pod itself runs with none of them; it gives them to what it restores (inside.pxi).
    """
    cdef int fd = memfd_create(b"pycr-environment", 0)
    cdef char **each = step.variables
    cdef size_t size
    if fd < 0:
        cr_task_fail(b"keep the task's environment", strerror(errno))
    while each[0] != NULL:
        size = strlen(each[0]) + 1
        if strncmp(each[0], b"SLURM", 5) == 0 and write(fd, each[0], size) != <long> size:
            cr_task_fail(b"keep the task's environment", strerror(errno))
        each += 1
    return fd


cdef int cr_pod_listen(const char *name) noexcept nogil:
    """Return a socket that listens under an abstract name, or -1."""
    cdef sockaddr_un address
    cdef size_t size = strlen(name)
    cdef int fd = socket(AF_UNIX, SOCK_STREAM, 0)
    if fd < 0:
        return -1
    memset(&address, 0, sizeof(address))
    address.sun_family = AF_UNIX
    memcpy(address.sun_path + 1, name, size)
    if (bind(fd, &address, <uint32_t> (sizeof(unsigned short) + 1 + size)) != 0 or
            listen(fd, 16) != 0):
        close(fd)
        return -1
    return fd


cdef void cr_pod_run(cr_step *step) noexcept nogil:
    """Make this task a pod that restores it from --restart-dir; never returns."""
    cdef const char *more[11]
    cdef char number[5][12]
    cdef int private_dir
    cdef int listener
    cdef int variables = cr_pod_variables(step)
    cdef char address[32]
    cdef uint64_t nonce = 0
    cdef int ctl[2]
    cdef int status[2]
    cdef sigset_t every
    cdef uint64_t mask = cr_caps_restore()
    cdef pid_t pod
    if pipe2(ctl, 0) != 0 or pipe2(status, 0) != 0:
        cr_task_fail(b"make a pipe", strerror(errno))
    cr_reset_signals()             # an ignored SIGCHLD would never be heard of (wait(2))
    sigfillset(&every)
    sigprocmask(SIG_SETMASK, &every, NULL)
    pod = cr_pod_clone()
    if pod < 0:
        cr_task_fail(b"make the pod's namespaces", strerror(errno))
    if pod > 0:
        close(ctl[0])
        close(status[1])
        close(variables)
        cr_pod_parent(pod, ctl[1], status[0])
    close(ctl[1])
    close(status[0])
    if cr_pod_mounts() != 0:
        cr_task_fail(b"mount the pod's /proc", strerror(errno))
    private_dir = cr_pod_private()
    if private_dir < 0:
        cr_task_fail(b"make the pod's own directory", strerror(errno))
    if cr_caps_set(mask) != 0 or cr_caps_ambient(mask) != 0:
        cr_task_fail(b"narrow capabilities", strerror(errno))
    # The parent may be killed outright; the pod must not outlive it. Should it be dead already,
    # PID 1 finds the ctl pipe at its end.
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    setsid()
    # With CAP_SETPCAP an image could set securebits, which nothing shows, and then execute a
    # set-user-ID program under them.
    if mask & <uint64_t> 1 << CAP_SETPCAP and prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        cr_task_fail(b"set no_new_privs", strerror(errno))
    cr_reset_signals()
    snprintf(number[0], 12, b"%d", ctl[0])
    snprintf(number[1], 12, b"%d", status[1])
    more[0] = options.restart_dir
    more[1] = number[0]
    more[2] = number[1]
    # The name of the pod's (abstract) socket: nobody can guess it, and when it is to be read on the
    # command line it is taken.
    if getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce):
        cr_task_fail(b"name the pod's socket", strerror(errno))
    snprintf(address, sizeof(address), b"pycr-%016lx", <unsigned long> nonce)
    listener = cr_pod_listen(address)
    if listener < 0:
        cr_task_fail(b"make the pod's socket", strerror(errno))
    more[3] = address
    snprintf(number[2], 12, b"%d", variables)
    more[4] = number[2]
    more[5] = cr_batch.script
    more[6] = b"1" if cr_batch.requeued else b"0"
    snprintf(number[3], 12, b"%d", private_dir)
    more[7] = number[3]
    snprintf(number[4], 12, b"%d", listener)
    more[8] = number[4]
    more[9] = options.files
    more[10] = NULL
    cr_exec_helper(b"pycr.pod", step, more, b"execute the helper")
