# SPDX-License-Identifier: GPL-2.0-or-later
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""libpycr: the functions of slurm_checkpoint(3), each a run of the command pycr.

This file owns the functions, what each has pycr do, and which error number its exit status is.
`words.pxi` owns what pycr is given: its arguments and its environment; `command.pxi` how it is run
from within somebody else's program. As in the plugin (spank_cr.pyx), all is one translation unit
that never touches Python.
"""

from libc.errno cimport (E2BIG, EACCES, EAGAIN, EALREADY, EINTR, EINVAL, ELOOP, ENOENT, ENOEXEC,
                         ENOMEM, ENOTDIR, EPERM, ERANGE, ETIMEDOUT, errno)
from libc.stdint cimport uint16_t, uint32_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc, strtoll, strtoul
from libc.string cimport memcpy, memset, strchr, strdup, strlen, strncmp, strrchr
from libc.time cimport time_t
from linux cimport *
from process cimport *


cdef extern from *:
    """
    #include "slurm.h"
    #include "slurm_errno.h"
    static void pycr_locate(void);
    __attribute__((constructor)) static void pycr_loaded(void) { pycr_locate(); }
    static void pycr_set_errno(int number) { errno = number; }
    """
    void set_errno "pycr_set_errno"(int number) noexcept nogil

include "words.pxi"
include "command.pxi"


cdef enum:
    MAX_ID = 999999999     # what pycr takes for a job or a step
    MAX_MESSAGE = 4096     # bytes of a message that are passed on


cdef int cr_number(int status) noexcept nogil:
    """Return the error number for an exit status of pycr's (pycr/errors.py), 0 for none."""
    if status == 0:
        return 0
    if status == 2:                       # UsageError
        return EINVAL
    if status == 3:                       # NoSuchJob
        return ESLURM_INVALID_JOB_ID
    if status == 4:                       # AccessDenied
        return ESLURM_ACCESS_DENIED
    if status == 5:                       # AlreadyDone
        return ESLURM_ALREADY_DONE
    if status == 6:                       # JobPending
        return ESLURM_JOB_PENDING
    if status == 7:                       # NotSupported
        return ESLURM_NOT_SUPPORTED
    if status == 8:                       # DirectoryError
        return ESLURM_WRITING_TO_FILE
    if status == 10:                      # ImageError
        return ENOENT
    if status == 11:                      # GeometryError
        return ESLURM_BAD_TASK_COUNT
    if status == 12:                      # TimedOut
        return ETIMEDOUT
    if status == 13:                      # Busy
        return EALREADY
    if status == 15:                      # NoSuchUser
        return ESLURM_USER_ID_MISSING
    if status == 16:                      # Disabled
        return ESLURM_DISABLED
    if status == 130:                     # interrupted
        return EINTR
    return SLURM_ERROR                    # TaskError, SlurmError, and whatever else


cdef int cr_end(cr_words_t *argv, char *text, int number) noexcept nogil:
    """Give back what a call holds; return what the function returns."""
    cr_free(argv)
    free(text)
    if number == 0:
        return 0
    set_errno(number)
    return -1


cdef void cr_verb(cr_words_t *argv, const char *verb) noexcept nogil:
    """Begin a command line."""
    memset(argv, 0, sizeof(cr_words_t))
    cr_add(argv, cr_pycr, b"")
    cr_add(argv, verb, b"")


cdef void cr_step(cr_words_t *argv, uint32_t job_id, uint32_t step_id) noexcept nogil:
    """Add JOB[.STEP]: the last word, as what follows it `pycr restart` gives to sbatch.

    An id that cannot be is the call's error.
    """
    cdef char name[32]
    name[0] = 0
    if step_id == SLURM_BATCH_SCRIPT:
        snprintf(name, sizeof(name), b".batch")
    elif step_id != NO_VAL:
        snprintf(name, sizeof(name), b".%u", step_id)
        if step_id > MAX_ID:
            argv.error = ESLURM_INVALID_JOB_ID
    if job_id == 0 or job_id > MAX_ID:
        argv.error = ESLURM_INVALID_JOB_ID
    cr_add_number(argv, b"", job_id, name)


cdef int cr_ask(cr_words_t *argv, uint32_t job_id, uint32_t step_id, char **text) noexcept nogil:
    """Run pycr; return the error number, 0 for none. text: what it printed, to free."""
    cdef int status = 0
    cdef int number
    cr_step(argv, job_id, step_id)
    number = cr_run(argv, text, &status)
    return number if number != 0 else cr_number(status)


cdef int cr_do(cr_words_t *argv, uint32_t job_id, uint32_t step_id) noexcept nogil:
    """Run pycr for a function that has nothing to hear but how it went."""
    cdef char *text = NULL
    cdef int number = cr_ask(argv, job_id, step_id, &text)
    return cr_end(argv, text, number)


cdef void cr_where(cr_words_t *argv, uint16_t max_wait, char *image_dir) noexcept nogil:
    """Add the options that all have which write a checkpoint."""
    if image_dir != NULL and image_dir[0] != 0:
        cr_add(argv, b"--image-dir=", image_dir)
    if max_wait != 0:
        cr_add_number(argv, b"--max-wait=", max_wait, b"")


cdef public int slurm_checkpoint_able(uint32_t job_id, uint32_t step_id,
                                      time_t *start_time) noexcept nogil:
    cdef cr_words_t argv
    cdef char *text = NULL
    cdef int number
    cdef time_t began = 0
    cr_verb(&argv, b"able")
    number = cr_ask(&argv, job_id, step_id, &text)
    if number == 0:
        if strncmp(text, b"Began at ", 9) == 0:
            began = strtoll(text + 9, NULL, 10)
        elif strncmp(text, b"No", 2) == 0:
            number = ESLURM_DISABLED
        elif strncmp(text, b"Yes", 3) != 0:
            number = SLURM_UNEXPECTED_MSG_ERROR
    if start_time != NULL:
        start_time[0] = began
    return cr_end(&argv, text, number)


cdef public int slurm_checkpoint_complete(uint32_t job_id, uint32_t step_id, time_t start_time,
                                          uint32_t error_code, char *error_msg) noexcept nogil:
    cdef cr_words_t argv
    cr_verb(&argv, b"complete")
    if start_time != 0:
        cr_add_number(&argv, b"--begin-time=", start_time, b"")
    if error_code != 0:
        cr_add_number(&argv, b"--error-code=", error_code, b"")
    if error_msg != NULL and error_msg[0] != 0:
        cr_add_some(&argv, b"--error-msg=", error_msg, MAX_MESSAGE)
    return cr_do(&argv, job_id, step_id)


cdef public int slurm_checkpoint_create(uint32_t job_id, uint32_t step_id, uint16_t max_wait,
                                        char *image_dir) noexcept nogil:
    cdef cr_words_t argv
    cr_verb(&argv, b"create")
    cr_where(&argv, max_wait, image_dir)
    return cr_do(&argv, job_id, step_id)


cdef public int slurm_checkpoint_disable(uint32_t job_id, uint32_t step_id) noexcept nogil:
    cdef cr_words_t argv
    cr_verb(&argv, b"disable")
    return cr_do(&argv, job_id, step_id)


cdef public int slurm_checkpoint_enable(uint32_t job_id, uint32_t step_id) noexcept nogil:
    cdef cr_words_t argv
    cr_verb(&argv, b"enable")
    return cr_do(&argv, job_id, step_id)


cdef public int slurm_checkpoint_error(uint32_t job_id, uint32_t step_id, uint32_t *error_code,
                                       char **error_msg) noexcept nogil:
    cdef cr_words_t argv
    cdef char *text = NULL
    cdef char *message
    cdef char *end
    cdef int number
    cdef uint32_t code = 0
    if error_code != NULL:
        error_code[0] = 0
    if error_msg != NULL:
        error_msg[0] = NULL
    cr_verb(&argv, b"error")
    number = cr_ask(&argv, job_id, step_id, &text)
    if number == 0:
        message = strchr(text, c')')
        if strncmp(text, b"error(", 6) == 0 and message != NULL and message[1] == c':':
            code = <uint32_t> strtoul(text + 6, NULL, 10)
            message += 3 if message[2] == c' ' else 2
            end = strrchr(message, c'\n')
            if end != NULL and end[1] == 0:
                end[0] = 0
            if error_msg != NULL:
                error_msg[0] = strdup(message)
                if error_msg[0] == NULL:
                    number = ENOMEM
            if error_code != NULL and number == 0:
                error_code[0] = code
        else:
            number = SLURM_UNEXPECTED_MSG_ERROR
    return cr_end(&argv, text, number)


cdef public int slurm_checkpoint_requeue(uint32_t job_id, uint16_t max_wait,
                                         char *image_dir) noexcept nogil:
    cdef cr_words_t argv
    cr_verb(&argv, b"requeue")
    cr_where(&argv, max_wait, image_dir)
    return cr_do(&argv, job_id, NO_VAL)


cdef public int slurm_checkpoint_restart(uint32_t job_id, uint32_t step_id, uint16_t stick,
                                         char *image_dir) noexcept nogil:
    cdef cr_words_t argv
    # A step that is restarted needs an srun that stays with it; Slurm, too, only took batch jobs.
    if step_id != NO_VAL and step_id != SLURM_BATCH_SCRIPT:
        set_errno(ESLURM_NOT_SUPPORTED)
        return -1
    cr_verb(&argv, b"restart")
    cr_where(&argv, 0, image_dir)
    if stick != 0:
        cr_add(&argv, b"--stick", b"")
    return cr_do(&argv, job_id, SLURM_BATCH_SCRIPT)


cdef public int slurm_checkpoint_tasks(uint32_t job_id, uint32_t step_id, time_t begin_time,
                                       char *image_dir, uint16_t max_wait,
                                       char *nodelist) noexcept nogil:
    cdef cr_words_t argv
    cr_verb(&argv, b"tasks")
    if begin_time != 0:
        cr_add_number(&argv, b"--begin-time=", begin_time, b"")
    cr_where(&argv, max_wait, image_dir)
    if nodelist != NULL and nodelist[0] != 0:
        cr_add(&argv, b"--nodelist=", nodelist)
    return cr_do(&argv, job_id, step_id)


cdef public int slurm_checkpoint_vacate(uint32_t job_id, uint32_t step_id, uint16_t max_wait,
                                        char *image_dir) noexcept nogil:
    cdef cr_words_t argv
    cr_verb(&argv, b"vacate")
    cr_where(&argv, max_wait, image_dir)
    return cr_do(&argv, job_id, step_id)
