# SPDX-License-Identifier: GPL-2.0-or-later
"""The libc and Linux interfaces that the plugin uses, where Cython's own libc has none."""

from libc.stdint cimport uint32_t, uint64_t
from posix.types cimport mode_t, pid_t, uid_t


cdef extern from "<unistd.h>" nogil:
    char **environ
    uid_t getuid()
    uid_t geteuid()
    pid_t getpid()
    pid_t getpgrp()
    pid_t setsid()
    int isatty(int fd)
    int setpgid(pid_t pid, pid_t group)
    pid_t tcgetpgrp(int fd)
    int tcsetpgrp(int fd, pid_t group)
    pid_t fork()
    int unlink(const char *path)
    int rmdir(const char *path)
    int chdir(const char *path)
    char *getcwd(char *buf, size_t size)
    int access(const char *path, int mode)
    int dup2(int old, int new)
    int pipe2(int *fds, int flags)
    int close(int fd)
    long read(int fd, void *buf, size_t count)
    long pread(int fd, void *buf, size_t count, long offset)
    long write(int fd, const void *buf, size_t count)
    long readlink(const char *path, char *buf, size_t size)
    int execve(const char *path, char *const *argv, char *const *envp)
    long syscall(long number, ...)
    void _exit(int status)
    enum: R_OK
    enum: W_OK
    enum: X_OK

cdef extern from "<sys/fsuid.h>" nogil:
    int setfsuid(uid_t uid)

cdef extern from "<sys/syscall.h>" nogil:
    long SYS_clone
    long SYS_close_range
    long SYS_capget
    long SYS_capset
    long SYS_fsopen
    long SYS_fsconfig
    long SYS_fsmount

cdef extern from "<fcntl.h>" nogil:
    int open(const char *path, int flags, ...)
    int fcntl(int fd, int cmd, ...)
    enum: O_RDONLY
    enum: O_RDWR
    enum: O_WRONLY
    enum: O_APPEND
    enum: O_CREAT
    enum: O_EXCL
    enum: O_CLOEXEC
    enum: O_NOFOLLOW
    enum: O_NONBLOCK
    enum: F_SETFL

cdef extern from "<sys/stat.h>" nogil:
    struct stat_t "stat":
        uid_t st_uid
        mode_t st_mode
        long st_size
    int mkdir(const char *path, mode_t mode)
    int stat(const char *path, stat_t *st)
    int lstat(const char *path, stat_t *st)
    int fstat(int fd, stat_t *st)
    bint S_ISDIR(mode_t mode)
    bint S_ISLNK(mode_t mode)
    bint S_ISREG(mode_t mode)
    enum: S_IWGRP
    enum: S_IWOTH

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    ctypedef void (*sighandler_t)(int) noexcept nogil
    struct sigaction_t "sigaction":
        sighandler_t sa_handler
        sigset_t sa_mask
        int sa_flags
    int sigaction(int signo, const sigaction_t *new, sigaction_t *old)
    int sigemptyset(sigset_t *mask)
    int sigfillset(sigset_t *mask)
    int sigdelset(sigset_t *mask, int signo)
    int sigprocmask(int how, const sigset_t *mask, sigset_t *old)
    int sigwaitinfo(const sigset_t *mask, void *info)
    int kill(pid_t pid, int signo)
    sighandler_t SIG_DFL
    sighandler_t SIG_IGN
    enum: SIG_BLOCK
    enum: SIG_SETMASK
    enum: SIGCHLD
    enum: SIGKILL
    enum: SIGHUP
    enum: SIGINT
    enum: SIGQUIT
    enum: SIGTERM
    enum: SIGALRM
    enum: SIGUSR1
    enum: SIGUSR2
    enum: SIGPIPE
    enum: SIGCONT
    enum: SIGWINCH
    enum: NSIG

cdef extern from "<sys/wait.h>" nogil:
    pid_t waitpid(pid_t pid, int *status, int options)
    bint WIFEXITED(int status)
    int WEXITSTATUS(int status)
    bint WIFSIGNALED(int status)
    int WTERMSIG(int status)
    enum: WNOHANG

cdef extern from "<sys/resource.h>" nogil:
    struct rlimit:
        uint64_t rlim_cur
        uint64_t rlim_max
    int setrlimit(int resource, const rlimit *lim)
    enum: RLIMIT_CORE

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int option, ...)
    enum: PR_SET_KEEPCAPS
    enum: PR_SET_NO_NEW_PRIVS
    enum: PR_SET_DUMPABLE
    enum: PR_SET_PDEATHSIG
    enum: PR_SET_NAME
    enum: PR_CAPBSET_READ
    enum: PR_CAP_AMBIENT
    enum: PR_CAP_AMBIENT_RAISE
    enum: PR_CAP_AMBIENT_CLEAR_ALL

cdef extern from "<linux/capability.h>" nogil:
    struct __user_cap_header_struct:
        uint32_t version
        int pid
    struct __user_cap_data_struct:
        uint32_t effective
        uint32_t permitted
        uint32_t inheritable
    enum: _LINUX_CAPABILITY_VERSION_3
    enum: CAP_SETPCAP
    enum: CAP_SYS_ADMIN
    enum: CAP_SYS_PTRACE
    enum: CAP_CHECKPOINT_RESTORE

cdef extern from "<sched.h>" nogil:
    enum: CLONE_NEWPID
    enum: CLONE_NEWNS

cdef extern from "<sys/mount.h>" nogil:
    int mount(const char *source, const char *target, const char *fstype,
              unsigned long flags, const void *data)
    enum: MS_REC
    enum: MS_SLAVE
    enum: MS_NOSUID
    enum: MS_NODEV
    enum: MS_NOEXEC

cdef extern from "<sys/socket.h>" nogil:
    int socket(int domain, int type, int protocol)
    int bind(int fd, const void *addr, uint32_t length)
    int listen(int fd, int backlog)
    int connect(int fd, const void *addr, uint32_t length)
    long send(int fd, const void *buf, size_t count, int flags)
    enum: AF_UNIX
    enum: SOCK_STREAM
    enum: SOCK_CLOEXEC
    enum: MSG_NOSIGNAL
    struct ucred:
        pid_t pid
        uid_t uid
    int setsockopt(int fd, int level, int name, const void *value, uint32_t size)
    int getsockopt(int fd, int level, int name, void *value, uint32_t *size)
    enum: SOL_SOCKET
    enum: SO_RCVTIMEO
    enum: SO_PEERCRED

cdef extern from "<sys/time.h>" nogil:
    struct timeval:
        long tv_sec
        long tv_usec

cdef extern from "<pwd.h>" nogil:
    struct passwd:
        char *pw_name
        char *pw_dir
    passwd *getpwuid(uid_t uid)

cdef extern from "<sys/mman.h>" nogil:
    int memfd_create(const char *name, unsigned int flags)

cdef extern from "<sys/un.h>" nogil:
    struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]

cdef extern from "<dlfcn.h>" nogil:
    ctypedef struct Dl_info:
        const char *dli_fname
    int dladdr(const void *addr, Dl_info *info)

cdef extern from "<stdlib.h>" nogil:
    char *mkdtemp(char *path)
    char *realpath(const char *path, char *resolved)
    char *getenv(const char *name)
    int setenv(const char *name, const char *value, int overwrite)
    int unsetenv(const char *name)

cdef extern from "<errno.h>" nogil:
    char *program_invocation_short_name

cdef extern from "<sys/random.h>" nogil:
    long getrandom(void *buf, size_t size, unsigned int flags)
