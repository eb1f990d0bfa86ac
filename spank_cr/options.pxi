# SPDX-License-Identifier: GPL-2.0-or-later
# The options: their table, their values, and what is wrong with a value.
#
# They are registered in every context, for sbatch and salloc too, which ignore a static
# spank_options table. Slurm may call back twice for one option (environment, then command line;
# or twice in slurmstepd), so a call only replaces the value.

cdef enum:
    CR_OPT_CR = 1
    CR_OPT_CHECKPOINT
    CR_OPT_CHECKPOINT_DIR
    CR_OPT_RESTART_DIR
    CR_OPT_FILES
    CR_OPT_HELPER
    CR_OPT_BEFORE_END
    CR_OPT_NAME
    CR_OPT_FALLBACK
    CR_OPT_SKIP_DONE
    CR_OPT_KEEP

cdef enum:                               # in place of seconds; pycr/settings.py has the same
    CR_AUTO = -1
    CR_NEVER = -2

cdef struct cr_options:
    bint cr
    int checkpoint                       # seconds between periodic checkpoints, 0: none given
    int before_end                       # seconds before the job's end, 0: none given
    char name[64]                        # by which a requeued job tells its steps apart
    char fallback[8]                     # fresh or fail
    bint skip_done
    int keep                             # generations to keep, 0: none given
    char checkpoint_dir[PATH_SIZE]
    char restart_dir[PATH_SIZE]
    char files[8]                        # cut, keep or refuse (pycr/pod/files.py)
    char helper[32]                      # JOB.STEP that a helper step is to work on

cdef cr_options options


cdef int cr_number(const char **at) noexcept nogil:
    """Read the digits at *at and step over them; -1 where there is none, or too many."""
    cdef int value = 0
    cdef int digits = 0
    while at[0][0] >= c'0' and at[0][0] <= c'9':
        digits += 1
        if digits > 6:
            return -1
        value = value * 10 + (at[0][0] - c'0')
        at[0] += 1
    return value if digits else -1


cdef int cr_seconds(const char *text) noexcept nogil:
    """Return the seconds that a Slurm time stands for, or -1 where it is none.

    As in srun(1): M, M:S, H:M:S, D-H, D-H:M, D-H:M:S.
    """
    cdef int part[4]
    cdef int parts = 0
    cdef int i
    cdef bint days = False
    cdef long total
    while True:
        if parts == 4:
            return -1
        part[parts] = cr_number(&text)
        if part[parts] < 0:
            return -1
        parts += 1
        if text[0] == c'-' and parts == 1:
            days = True
        elif text[0] == 0:
            break
        elif text[0] != c':':
            return -1
        text += 1
    if days:
        if parts == 1:
            return -1
        for i in range(parts, 4):
            part[i] = 0
        total = part[0] * 86400L + part[1] * 3600L + part[2] * 60L + part[3]
    elif parts == 1:
        total = part[0] * 60L
    elif parts == 2:
        total = part[0] * 60L + part[1]
    elif parts == 3:
        total = part[0] * 3600L + part[1] * 60L + part[2]
    else:
        return -1
    return <int> total if total <= 0x7fffffff else -1


cdef int cr_option_dir(char *into, const char *name, const char *value) noexcept nogil:
    if value == NULL or value[0] == 0:
        slurm_error(b"cr: --%s needs a directory", name)
        return -1
    if strlen(value) >= PATH_SIZE - 1:
        slurm_error(b"cr: --%s: %s", name, strerror(ENAMETOOLONG))
        return -1
    strcpy(into, value)
    return 0


cdef bint cr_is_step_name(const char *text) noexcept nogil:
    """Tell whether text reads JOB.STEP or JOB.batch, as pycr gives it to --cr-helper."""
    cdef int dots = 0
    cdef size_t i = 0
    if strlen(text) >= sizeof(options.helper):
        return False
    while text[i] != 0:
        if text[i] == c'.' and i > 0 and dots == 0:
            dots += 1
            if strcmp(text + i + 1, b"batch") == 0:
                return True
        elif text[i] < c'0' or text[i] > c'9':
            return False
        i += 1
    return dots == 1 and text[i - 1] != c'.'


cdef bint cr_is_policy(const char *text) noexcept nogil:
    return (strcmp(text, b"cut") == 0 or strcmp(text, b"keep") == 0 or
            strcmp(text, b"refuse") == 0)


cdef bint cr_is_name(const char *text) noexcept nogil:
    """Tell whether text is a plain word: letters, digits, dots, dashes and underscores."""
    cdef size_t i = 0
    while text[i] != 0:
        if not (c'a' <= text[i] <= c'z' or c'A' <= text[i] <= c'Z' or c'0' <= text[i] <= c'9' or
                (i > 0 and text[i] == c'.') or text[i] == c'_' or (i > 0 and text[i] == c'-')):
            return False
        i += 1
    return 0 < i < sizeof(options.name)


cdef int cr_option_time(int *into, const char *name, const char *arg,
                        const char *words) noexcept nogil:
    """Take a time, or the word auto. words: what it may be besides a time."""
    if strcmp(arg, b"auto") == 0:
        into[0] = CR_AUTO
        return 0
    into[0] = cr_seconds(arg)
    if into[0] <= 0:
        into[0] = 0
        slurm_error(b"cr: --%s=%s is not a time (minutes, MM:SS, HH:MM:SS, D-HH, "
                    b"D-HH:MM or D-HH:MM:SS), nor %s", name, arg, words)
        return -1
    return 0


cdef int cr_option_keep(const char *arg) noexcept nogil:
    cdef const char *at = arg
    options.keep = cr_number(&at)
    if options.keep <= 0 or at[0] != 0:
        options.keep = 0
        slurm_error(b"cr: --cr-keep=%s is not a number of checkpoints, 1 or more", arg)
        return -1
    return 0


cdef int cr_option(int val, const char *arg, int remote) noexcept nogil:
    """Take one option; a value that is wrong is said here, and Slurm then ends srun."""
    # A value that is not there comes to the sruns of a script that was submitted with the option as
    # "(null)" (Slurm 24.11).
    if val == CR_OPT_BEFORE_END and (arg == NULL or strcmp(arg, b"(null)") == 0):
        arg = b"auto"
    if val == CR_OPT_CHECKPOINT_DIR or val == CR_OPT_RESTART_DIR or val == CR_OPT_HELPER:
        pass                             # these say themselves that there is none
    elif arg == NULL:
        arg = b""
    if val == CR_OPT_CR:
        options.cr = True
    elif val == CR_OPT_SKIP_DONE:
        options.skip_done = True
    elif val == CR_OPT_CHECKPOINT:
        return cr_option_time(&options.checkpoint, b"checkpoint", arg, b"auto")
    elif val == CR_OPT_BEFORE_END:
        if strcmp(arg, b"no") == 0:
            options.before_end = CR_NEVER
            return 0
        return cr_option_time(&options.before_end, b"cr-before-end", arg, b"auto or no")
    elif val == CR_OPT_KEEP:
        return cr_option_keep(arg)
    elif val == CR_OPT_NAME:
        if not cr_is_name(arg):
            slurm_error(b"cr: --cr-name=%s is not a plain word of up to 63 letters, digits and ._-",
                        arg)
            return -1
        strcpy(options.name, arg)
    elif val == CR_OPT_FALLBACK:
        if strcmp(arg, b"fresh") != 0 and strcmp(arg, b"fail") != 0:
            slurm_error(b"cr: --cr-fallback=%s is neither fresh nor fail", arg)
            return -1
        strcpy(options.fallback, arg)
    elif val == CR_OPT_CHECKPOINT_DIR:
        return cr_option_dir(options.checkpoint_dir, b"checkpoint-dir", arg)
    elif val == CR_OPT_RESTART_DIR:
        return cr_option_dir(options.restart_dir, b"restart-dir", arg)
    elif val == CR_OPT_FILES:
        if not cr_is_policy(arg):
            slurm_error(b"cr: --files=%s is neither cut, keep nor refuse", arg)
            return -1
        strcpy(options.files, arg)
    elif val == CR_OPT_HELPER:
        if arg == NULL or not cr_is_step_name(arg):
            slurm_error(b"cr: --cr-helper is for pycr's own use and takes JOB.STEP")
            return -1
        strcpy(options.helper, arg)
    return 0


cdef void cr_settings(char *into, size_t size) noexcept nogil:
    """Write what keeps a step or a job going, as words NAME=VALUE for pycr/settings.py.

    The directory is last: it may have blanks in it.
    """
    cdef size_t n = 0
    into[0] = 0
    if options.checkpoint:
        n += <size_t> snprintf(into + n, size - n, b"checkpoint=%d ", options.checkpoint)
    if options.before_end:
        n += <size_t> snprintf(into + n, size - n, b"before_end=%d ", options.before_end)
    if options.keep:
        n += <size_t> snprintf(into + n, size - n, b"keep=%d ", options.keep)
    if options.skip_done:
        n += <size_t> snprintf(into + n, size - n, b"skip_done=1 ")
    if options.name[0] != 0:
        n += <size_t> snprintf(into + n, size - n, b"name=%s ", options.name)
    if options.fallback[0] != 0:
        n += <size_t> snprintf(into + n, size - n, b"fallback=%s ", options.fallback)
    if options.checkpoint_dir[0] != 0:
        snprintf(into + n, size - n, b"checkpoint_dir=%s", options.checkpoint_dir)


cdef void cr_option_add(spank_t sp, char *name, char *arginfo, char *usage,
                        int val, int has_arg=1) noexcept nogil:
    cdef spank_option opt
    opt.name = name
    opt.arginfo = arginfo
    opt.usage = usage
    opt.has_arg = has_arg if arginfo != NULL else 0
    opt.val = val
    opt.cb = cr_option
    if spank_option_register(sp, &opt) != ESPANK_SUCCESS:
        slurm_error(b"cr: couldn't register --%s", name)


cdef void cr_options_register(spank_t sp) noexcept nogil:
    memset(&options, 0, sizeof(options))
    strcpy(options.files, b"cut")
    cr_option_add(sp, b"cr", NULL,
                  b"run the step under srun_cr, with checkpoint/restart support", CR_OPT_CR)
    cr_option_add(sp, b"checkpoint", b"TIME|auto",
                  b"time between periodic checkpoints", CR_OPT_CHECKPOINT)
    cr_option_add(sp, b"checkpoint-dir", b"DIR",
                  b"directory to write checkpoint images to", CR_OPT_CHECKPOINT_DIR)
    cr_option_add(sp, b"restart-dir", b"DIR",
                  b"directory of the checkpoint to restart the tasks from", CR_OPT_RESTART_DIR)
    cr_option_add(sp, b"files", b"cut|keep|refuse",
                  b"what a restart does about files that have changed since", CR_OPT_FILES)
    cr_option_add(sp, b"cr-before-end", b"TIME|no",
                  b"checkpoint so long before the job's end, and requeue it", CR_OPT_BEFORE_END, 2)
    cr_option_add(sp, b"cr-name", b"NAME",
                  b"name by which a requeued job finds the step's checkpoint", CR_OPT_NAME)
    cr_option_add(sp, b"cr-fallback", b"fresh|fail",
                  b"what a requeued job does when no checkpoint can be restored", CR_OPT_FALLBACK)
    cr_option_add(sp, b"cr-skip-done", NULL,
                  b"in a requeued job, do not run again what had ended with 0", CR_OPT_SKIP_DONE)
    cr_option_add(sp, b"cr-keep", b"N",
                  b"how many periodic checkpoints to keep", CR_OPT_KEEP)
    cr_option_add(sp, b"cr-helper", b"JOB.STEP",
                  b"used by pycr itself to checkpoint a step", CR_OPT_HELPER)
