# SPDX-License-Identifier: GPL-2.0-or-later
# The local context inside a restored batch script or task: its environment still holds the SLURM_
# variables of the job it was dumped in. Its pod (pycr/pod/process.py, PID 1 here) knows the new
# job's; srun, sbatch and salloc read theirs after this has put them in place.

cdef enum:
    CR_POD_MODULE = 3             # protocol.py: POD_WORDS, POD_SOCKET
    CR_POD_SOCKET = 16
    CR_POD_PATIENCE = 10          # seconds


cdef int cr_inside_connect(const char *name) noexcept nogil:
    """Connect to the pod's abstract socket; return the descriptor, or -1."""
    global errno
    cdef sockaddr_un address
    cdef ucred peer
    cdef uint32_t length = sizeof(peer)
    cdef timeval patience
    cdef size_t size = strlen(name)
    cdef int fd
    if size > sizeof(address.sun_path) - 1:
        errno = ENAMETOOLONG
        return -1
    memset(&address, 0, sizeof(address))
    address.sun_family = AF_UNIX
    memcpy(address.sun_path + 1, name, size)
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)
    if fd < 0:
        return -1
    memset(&patience, 0, sizeof(patience))
    patience.tv_sec = CR_POD_PATIENCE
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) != 0 or
            connect(fd, &address, <uint32_t> (sizeof(unsigned short) + 1 + size)) != 0 or
            getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0):
        close(fd)
        return -1
    if peer.uid != getuid():
        close(fd)
        errno = EACCES
        return -1
    return fd


cdef bint cr_inside_is(const char *value, const char *told) noexcept nogil:
    """Tell whether a variable has the value that the pod tells: behind an equal sign, "-" for none.
    """
    if value == NULL:
        return told[0] == c'-'
    return told[0] == c'=' and strcmp(value, told + 1) == 0


cdef void cr_inside_take(char **words) noexcept nogil:
    """Give a variable the new job's value, unless the script has set it to something of its own.

    words: its name, its value in this job, those in the jobs before, and an empty string.
    """
    cdef const char *now = getenv(words[0])
    cdef size_t i = 2
    while words[i][0] != 0:
        if cr_inside_is(now, words[i]):
            if words[1][0] == c'=':
                setenv(words[0], words[1] + 1, 1)
            else:
                unsetenv(words[0])
            return
        i += 1


cdef void cr_inside_init() noexcept nogil:
    """Put the new job's SLURM_ variables in place, where this runs in a restored tree."""
    cdef size_t count = 0
    cdef char **words = cr_strings(b"/proc/1/cmdline", &count)
    cdef char **values
    cdef const char *question = b'{"do":"environment"}\n'
    cdef size_t i = 0
    cdef int fd
    if (words == NULL or count <= CR_POD_SOCKET or
            strcmp(words[CR_POD_MODULE], b"pycr.pod") != 0):
        return
    fd = cr_inside_connect(words[CR_POD_SOCKET])
    if fd < 0 or send(fd, question, strlen(question), MSG_NOSIGNAL) < 0:
        slurm_error(b"cr: couldn't learn the new job's environment: %s", strerror(errno))
        return
    values = cr_strings_of(fd, &count)
    if values == NULL:
        slurm_error(b"cr: couldn't learn the new job's environment: %s", strerror(errno))
        return
    if count == 0 or values[count - 1][0] != 0:
        return                        # nothing, or cut off
    while i + 2 < count:
        cr_inside_take(values + i)
        while values[i][0] != 0:
            i += 1
        i += 1
