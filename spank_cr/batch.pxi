# SPDX-License-Identifier: GPL-2.0-or-later
# The remote context, for a batch script: what its srun_cr processes are told; and when Slurm starts
# a requeued job again, whether there is a checkpoint to restore it from.
#
#     DIR/JOB.batch/newest          one line: the newest generation of a job submitted with --cr
#     DIR/JOB.batch/requeue         the same, left by `pycr requeue` (pycr/images/requeue.py)
#
# DIR is --checkpoint-dir as the job was submitted with, or the site's default for the user.

cdef struct cr_batch_job:
    bint requeued                     # the checkpoint to restore it from was found
    char user[64]
    char home[PATH_SIZE]
    char script[PATH_SIZE]
    char steps[64]                    # where the script's steps are counted (pycr/identity.py)

cdef cr_batch_job cr_batch


cdef bint cr_is_batch(spank_t sp) noexcept nogil:
    cdef uint32_t step_id = 0
    return (spank_get_item(sp, S_JOB_STEPID, &step_id) == ESPANK_SUCCESS and
            step_id == SLURM_BATCH_SCRIPT)


cdef bint cr_is_asked_for() noexcept nogil:
    """Tell whether this step or script was started with an option that it is checkpointed by."""
    return (options.cr or options.checkpoint != 0 or options.before_end != 0 or
            options.checkpoint_dir[0] != 0 or options.restart_dir[0] != 0)


cdef void cr_batch_name_steps(spank_t sp) noexcept nogil:
    """Choose the name of the file in which a script's steps are counted: one that nobody else on
    the node could have taken before."""
    cdef uint32_t job_id = 0
    cdef uint64_t number = 0
    if (cr_is_batch(sp) and spank_get_item(sp, S_JOB_ID, &job_id) == ESPANK_SUCCESS and
            getrandom(&number, sizeof(number), 0) == sizeof(number)):
        snprintf(cr_batch.steps, sizeof(cr_batch.steps), b"/tmp/srun_cr-steps.%u.%016llx", job_id,
                 <unsigned long long> number)


cdef void cr_batch_post_opt(spank_t sp) noexcept nogil:
    """Note whose job this is, in slurmstepd itself, as root.

    Here because getpwuid(3) may take locks that are held for ever in a forked task. What it says is
    the system's, not the user's; nothing of the user's is read.
    """
    cdef uid_t uid = 0
    cdef uint32_t step_id = 0
    cdef passwd *entry
    cr_batch_name_steps(sp)
    if not cr_is_batch(sp) and not (cr_is_step(sp, &step_id) and cr_is_asked_for()):
        return
    if spank_get_item(sp, S_JOB_UID, &uid) != ESPANK_SUCCESS:
        return
    entry = getpwuid(uid)
    if (entry == NULL or strlen(entry.pw_name) >= sizeof(cr_batch.user) or
            strlen(entry.pw_dir) >= sizeof(cr_batch.home)):
        slurm_error(b"cr: couldn't learn whose job this is")
        return
    strcpy(cr_batch.user, entry.pw_name)
    strcpy(cr_batch.home, entry.pw_dir)


cdef bint cr_batch_again(spank_t sp) noexcept nogil:
    """Tell whether Slurm has started this job before.

    In the task only: before, Slurm has not yet put the count where a plugin could see it (up to
    26.05 S_SLURM_RESTART_COUNT is always 0 in slurmstepd).
    """
    cdef char count[16]
    return (cr_batch.user[0] != 0 and
            spank_getenv(sp, b"SLURM_RESTART_COUNT", count, sizeof(count)) == ESPANK_SUCCESS and
            strcmp(count, b"0") != 0)


cdef bint cr_batch_append(char *into, size_t size, const char *text) noexcept nogil:
    if strlen(into) + strlen(text) >= size:
        return False
    strcat(into, text)
    return True


cdef bint cr_batch_place(char *into, size_t size, const char *job) noexcept nogil:
    """Write where the job's checkpoints are by default (config.py: Site.default_dir)."""
    cdef const char *at = config.checkpoint_dir
    cdef char one[2]
    cdef const char *text
    into[0] = 0
    one[1] = 0
    while at[0] != 0:
        one[0] = at[0]
        text = one
        if at[0] == c'%' and at[1] != 0:
            at += 1
            if at[0] == c'u':
                text = cr_batch.user
            elif at[0] == c'h':
                text = cr_batch.home
            elif at[0] == c'j':
                text = job
        if not cr_batch_append(into, size, text):
            return False
        at += 1
    return True


cdef void cr_batch_variables(spank_t sp) noexcept nogil:
    """Tell the script's srun_cr processes whose they are, and what sbatch was given for them."""
    cdef char text[80]
    cdef uint32_t job_id = 0
    spank_unsetenv(sp, b"SLURM_CR_STEP")         # of a step that sbatch was run in
    spank_unsetenv(sp, b"SLURM_CR_GOES_ON")
    if spank_getenv(sp, b"SLURM_CR_BATCH", text, sizeof(text)) == ESPANK_SUCCESS:
        # Of the script that sbatch was run in, and so is what that one was given.
        spank_unsetenv(sp, b"SLURM_CR_FALLBACK")
        spank_unsetenv(sp, b"SLURM_CR_SKIP_DONE")
        spank_unsetenv(sp, b"SLURM_CR_KEEP")
    if spank_get_item(sp, S_JOB_ID, &job_id) == ESPANK_SUCCESS:
        snprintf(text, sizeof(text), b"%u:%s", job_id, cr_batch.steps)
        spank_setenv(sp, b"SLURM_CR_BATCH", text, 1)
    if options.cr:
        spank_setenv(sp, b"SLURM_CR_GOES_ON", b"1", 1)
    if options.fallback[0] != 0:
        spank_setenv(sp, b"SLURM_CR_FALLBACK", options.fallback, 1)
    if options.skip_done:
        spank_setenv(sp, b"SLURM_CR_SKIP_DONE", b"1", 1)
    if options.keep:
        snprintf(text, sizeof(text), b"%d", options.keep)
        spank_setenv(sp, b"SLURM_CR_KEEP", text, 1)


cdef void cr_batch_exit(spank_t sp) noexcept nogil:
    """Remove, at a script's end, the file in which its steps were counted (pycr/identity.py).

    By its name alone and with the user's rights.
    """
    cdef uid_t uid = 0
    if cr_batch.steps[0] == 0 or spank_get_item(sp, S_JOB_UID, &uid) != ESPANK_SUCCESS:
        return
    setfsuid(uid)
    unlink(cr_batch.steps)
    setfsuid(geteuid())


cdef void cr_batch_tell(spank_t sp) noexcept nogil:
    """Set SLURM_CHECKPOINT_IMAGE_DIR, as Slurm did: where checkpoints of this task will be.

    Only where checkpoint/restart was asked for: a step that uses none of it is left as it is.
    """
    cdef char path[2 * PATH_SIZE]
    cdef char job[12]
    cdef uint32_t job_id = 0
    if options.checkpoint_dir[0] != 0:
        spank_setenv(sp, b"SLURM_CHECKPOINT_IMAGE_DIR", options.checkpoint_dir, 1)
    elif (cr_is_asked_for() and cr_batch.user[0] != 0 and
            spank_get_item(sp, S_JOB_ID, &job_id) == ESPANK_SUCCESS):
        snprintf(job, sizeof(job), b"%u", job_id)
        if cr_batch_place(path, sizeof(path), job):
            spank_setenv(sp, b"SLURM_CHECKPOINT_IMAGE_DIR", path, 1)


cdef bint cr_batch_path(spank_t sp, char *path, size_t size, const char *name) noexcept nogil:
    """Write which file of that name says from which generation the job goes on."""
    cdef char job[12]
    cdef uint32_t job_id = 0
    if spank_get_item(sp, S_JOB_ID, &job_id) != ESPANK_SUCCESS:
        return False
    snprintf(job, sizeof(job), b"%u", job_id)
    if options.checkpoint_dir[0] != 0:
        strcpy(path, options.checkpoint_dir)
    elif not cr_batch_place(path, size, job):
        return False
    return (cr_batch_append(path, size, b"/") and cr_batch_append(path, size, job) and
            cr_batch_append(path, size, b".batch/") and cr_batch_append(path, size, name))


cdef void cr_batch_first(spank_t sp) noexcept nogil:
    """At a job's first start, leave behind what an earlier job of its number had, as the user.

    Numbers come again: with a new state of slurmctld's, or after MaxJobId. The journal is told so
    (pycr/journal.py: first). Of every job, and here: without --cr it may be checkpointed too, by
    hand or in its steps, and what it has once said itself is its own.
    """
    cdef char path[2 * PATH_SIZE]
    cdef char job[12]
    cdef char line[64]
    cdef char last = 0
    cdef const char *before = b""
    cdef stat_t st
    cdef uint32_t job_id = 0
    cdef int fd
    if (getuid() == 0 or cr_batch.user[0] == 0 or
            spank_get_item(sp, S_JOB_ID, &job_id) != ESPANK_SUCCESS):
        return
    if cr_batch_path(sp, path, sizeof(path), b"newest"):
        unlink(path)
    if cr_batch_path(sp, path, sizeof(path), b"requeue"):
        unlink(path)
    snprintf(job, sizeof(job), b"%u", job_id)
    if not (cr_batch_place(path, sizeof(path), job) and
            cr_batch_append(path, sizeof(path), b"/.journal/") and
            cr_batch_append(path, sizeof(path), job)):
        return
    fd = open(path, O_RDWR | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
    if fd < 0:
        return
    if fstat(fd, &st) == 0 and S_ISREG(st.st_mode) and st.st_uid == getuid():
        if st.st_size > 0 and pread(fd, &last, 1, st.st_size - 1) == 1 and last != c'\n':
            before = b"\n"                           # behind a line whose writer died within it
        snprintf(line, sizeof(line), b"%s{\"time\": %lld, \"event\": \"first\"}\n", before,
                 <long long> time(NULL))
        if write(fd, line, strlen(line)) < 0:
            slurm_error(b"cr: couldn't write to %s: %s", path, strerror(errno))
    close(fd)


cdef bint cr_batch_find(spank_t sp, const char *name) noexcept nogil:
    """Take the generation that a file of that name tells as --restart-dir, as the user; tell
    whether there is one."""
    cdef char path[2 * PATH_SIZE]
    cdef char text[PATH_SIZE]
    cdef stat_t st
    cdef long got = -1
    cdef int fd
    if not cr_batch_path(sp, path, sizeof(path), name):
        return False
    fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
    if fd < 0:
        if errno != ENOENT and errno != ENOTDIR:
            cr_batch_append(path, sizeof(path), b": ")
            cr_batch_append(path, sizeof(path), strerror(errno))
            cr_task_fail(b"requeue from a checkpoint", path)
        return False
    if fstat(fd, &st) == 0 and S_ISREG(st.st_mode) and st.st_uid == getuid():
        got = read(fd, text, sizeof(text) - 1)
    close(fd)
    if got > 1 and text[0] == c'/' and text[got - 1] == c'\n':
        text[got - 1] = 0
        if strlen(text) == <size_t> got - 1 and strchr(text, c'\n') == NULL:
            strcpy(options.restart_dir, text)
            cr_batch.requeued = True
    if not cr_batch.requeued:
        # Better no job than one that silently begins from its beginning.
        cr_task_fail(b"requeue from a checkpoint", b"its requeue file is damaged")
    return True
