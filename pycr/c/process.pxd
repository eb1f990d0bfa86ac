# SPDX-License-Identifier: GPL-2.0-or-later
"""What the library needs of libc beyond the plugin's linux.pxd."""

from libc.stdint cimport uint32_t
from linux cimport sigset_t
from posix.types cimport pid_t, uid_t


cdef extern from "<fcntl.h>" nogil:
    enum: F_DUPFD
    enum: F_SETFD
    enum: F_SETFL
    enum: FD_CLOEXEC

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout)
    enum: POLLIN

cdef extern from "<pthread.h>" nogil:
    int pthread_sigmask(int how, const sigset_t *mask, sigset_t *old)
    int pthread_setcancelstate(int state, int *old)
    enum: PTHREAD_CANCEL_DISABLE

cdef extern from "<sys/wait.h>" nogil:
    enum: WALL "__WALL"

cdef extern from "<sys/resource.h>" nogil:
    enum: RLIMIT_NOFILE
    int getrlimit(int resource, void *lim)

cdef extern from "<pwd.h>" nogil:
    struct account_t "passwd":
        char *pw_name
        char *pw_dir
    int getpwuid_r(uid_t uid, account_t *entry, char *buf, size_t size, account_t **found)

cdef extern from "<stdlib.h>" nogil:
    char *secure_getenv(const char *name)

cdef extern from "<dlfcn.h>" nogil:
    void *RTLD_DEFAULT
    void *dlsym(void *handle, const char *name)

cdef extern from "<slurm/slurm.h>" nogil:
    uint32_t NO_VAL
    uint32_t SLURM_BATCH_SCRIPT

cdef extern from "<slurm/slurm_errno.h>" nogil:
    enum: SLURM_ERROR
    enum: SLURM_UNEXPECTED_MSG_ERROR
    enum: ESLURM_ACCESS_DENIED
    enum: ESLURM_ALREADY_DONE
    enum: ESLURM_BAD_TASK_COUNT
    enum: ESLURM_DISABLED
    enum: ESLURM_INVALID_JOB_ID
    enum: ESLURM_JOB_PENDING
    enum: ESLURM_NOT_SUPPORTED
    enum: ESLURM_USER_ID_MISSING
    enum: ESLURM_WRITING_TO_FILE
