# SPDX-License-Identifier: GPL-2.0-or-later
# Every line of pycr that uses a privilege. Nothing here reads anything the user chose.
#
#   slurmstepd forks the task
#     root   cr_caps_keep       keep the permitted set over Slurm's setuid to the user
#            cr_die_first       (helper) be what the kernel ends when memory runs out
#     user   cr_caps_narrow     first of all, keep no more than pycr may ever need, none in effect
#            cr_caps_set        (helper, restart) put the named ones into effect
#            cr_pod_clone       (restart) CAP_SYS_ADMIN: new PID and mount namespaces
#            cr_pod_mounts      (restart) CAP_SYS_ADMIN: a /proc of the pod's own
#            cr_pod_private     (restart) CAP_SYS_ADMIN: a directory that no path leads to
#            cr_caps_set        (restart) give CAP_SYS_ADMIN up, in pod and parent
#            cr_caps_ambient    let the rest survive the execve of the trusted helper
#            cr_caps_drop       (restart) the pod's parent keeps nothing

cdef int cr_caps_keep() noexcept nogil:
    """Keep permitted capabilities over the change of uid (capabilities(7)); execve clears it."""
    return prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)


cdef void cr_caps_narrow(uint64_t mask) noexcept nogil:
    """Give up all but mask for good, and have none in effect; keep nothing where that fails."""
    cdef __user_cap_header_struct header
    cdef __user_cap_data_struct data[2]
    cdef int i
    header.version = _LINUX_CAPABILITY_VERSION_3
    header.pid = 0
    if syscall(SYS_capget, &header, data) == 0:
        for i in range(2):
            data[i].permitted &= <uint32_t> (mask >> (32 * i))
            data[i].effective = 0
            data[i].inheritable = 0
        if syscall(SYS_capset, &header, data) == 0:
            return
    cr_caps_drop()


cdef int cr_die_first() noexcept nogil:
    """Where the job's memory does not do, have the kernel end this process first.

    It would take the largest, a task: a checkpoint would end what it is to save. Here and not in
    the helper, which takes memory to start, and whose files in /proc may be root's.
    """
    cdef int fd = open(b"/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC)
    cdef long wrote
    if fd < 0:
        return -1
    wrote = write(fd, b"1000", 4)
    close(fd)
    return 0 if wrote == 4 else -1


cdef int cr_caps_set(uint64_t mask) noexcept nogil:
    """Make mask the whole of the permitted, effective and inheritable sets.

    Inheritable, because a capability can only be made ambient when it is that too.
    """
    cdef __user_cap_header_struct header
    cdef __user_cap_data_struct data[2]
    cdef int i
    header.version = _LINUX_CAPABILITY_VERSION_3
    header.pid = 0
    for i in range(2):
        data[i].permitted = <uint32_t> (mask >> (32 * i))
        data[i].effective = data[i].permitted
        data[i].inheritable = data[i].permitted
    return <int> syscall(SYS_capset, &header, data)


cdef int cr_caps_ambient(uint64_t mask) noexcept nogil:
    cdef unsigned long i
    for i in range(64):
        if mask & (<uint64_t> 1 << i) and prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0) != 0:
            return -1
    return 0


cdef int cr_caps_drop() noexcept nogil:
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0)
    return cr_caps_set(0)


cdef uint64_t cr_caps_dump() noexcept nogil:
    """What a dump needs: CAP_CHECKPOINT_RESTORE for map_files and the like (criu(8),
    --unprivileged), and CAP_SYS_PTRACE only where the site's yama setting makes it say so."""
    cdef uint64_t mask = <uint64_t> 1 << CAP_CHECKPOINT_RESTORE
    if strcmp(config.ptrace, b"yes") == 0:
        mask |= <uint64_t> 1 << CAP_SYS_PTRACE
    return mask


cdef uint64_t cr_caps_restore() noexcept nogil:
    """What a pod needs: CAP_CHECKPOINT_RESTORE, and CAP_SETPCAP where the node's bounding set is
    not full: CRIU then has to drop from the task's what the node lacks. Never CAP_SYS_PTRACE: the
    pod works on an image that the user may have written."""
    cdef uint64_t mask = <uint64_t> 1 << CAP_CHECKPOINT_RESTORE
    cdef unsigned long i
    for i in range(64):
        if prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 0:
            return mask | <uint64_t> 1 << CAP_SETPCAP
    return mask


cdef const char *cr_caps_lacking(uint64_t mask) noexcept nogil:
    """Name the first capability of mask that this node lets no process have, NULL where none."""
    cdef unsigned long i
    for i in range(64):
        if mask & (<uint64_t> 1 << i) and prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 0:
            if i == CAP_CHECKPOINT_RESTORE:
                return b"CAP_CHECKPOINT_RESTORE"
            if i == CAP_SYS_PTRACE:
                return b"CAP_SYS_PTRACE"
            if i == CAP_SYS_ADMIN:
                return b"CAP_SYS_ADMIN"
            return b"CAP_SETPCAP"
    return NULL


cdef pid_t cr_pod_clone() noexcept nogil:
    """Fork into new PID and mount namespaces; the raw call is fork(2) with flags."""
    return <pid_t> syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0)


cdef int cr_pod_mounts() noexcept nogil:
    """Give the pod its own /proc, which nobody outside sees; later mounts outside still reach it.

    A slave, not private: an automounted file system must go on appearing in the pod.
    """
    if mount(NULL, b"/", NULL, MS_REC | MS_SLAVE, NULL) != 0:
        return -1
    return mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)


cdef enum:
    CR_FSCONFIG_SET_STRING = 1    # linux/mount.h, which clashes with sys/mount.h before glibc 2.36
    CR_FSCONFIG_CMD_CREATE = 6
    CR_MOUNT_ATTR_SAFE = 2 | 4 | 8    # NOSUID, NODEV, NOEXEC
    CR_FSOPEN_CLOEXEC = 1


cdef int cr_pod_private() noexcept nogil:
    """Return an empty directory in memory that is mounted nowhere; -1 where there can be none.

    Only who has its descriptor reaches it, and the pod's /proc/PID/fd is closed to whoever lacks
    the pod's capability. There criu finds what was checked of an image (pycr/engine/core_image.py):
    in the image directory its user could change it meanwhile. Linux 5.2 has this call.
    """
    cdef int made = -1
    cdef int fs = <int> syscall(SYS_fsopen, b"tmpfs", CR_FSOPEN_CLOEXEC)
    if fs < 0:
        return -1
    if (syscall(SYS_fsconfig, fs, CR_FSCONFIG_SET_STRING, b"mode", b"0700", 0) == 0 and
            syscall(SYS_fsconfig, fs, CR_FSCONFIG_SET_STRING, b"size", b"256m", 0) == 0 and
            syscall(SYS_fsconfig, fs, CR_FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0):
        made = <int> syscall(SYS_fsmount, fs, 0, CR_MOUNT_ATTR_SAFE)
    close(fs)
    return made
