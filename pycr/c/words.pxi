# SPDX-License-Identifier: GPL-2.0-or-later
# What pycr is given: lists of words, where pycr lies, and an environment made from nothing.

cdef enum:
    MAX_WORDS = 12
    PATH_SIZE = 4096
    MAX_ACCOUNT = 1 << 20  # bytes that an entry of the user database may take


cdef struct cr_words_t:
    char *word[MAX_WORDS + 1]  # ends with NULL, as execve(2) has it
    int count
    int error                  # the first thing that went wrong; the call then fails with it


cdef char cr_pycr[PATH_SIZE]   # PREFIX/bin/pycr, "" where it is not known


cdef void cr_add_some(cr_words_t *words, const char *name, const char *value,
                      size_t most) noexcept nogil:
    """Add one word, name and value together, with `most` bytes of the value."""
    cdef size_t first = strlen(name)
    cdef size_t second = strlen(value)
    cdef char *word
    if words.count == MAX_WORDS:
        words.error = E2BIG
        return
    if second > most:
        second = most
    word = <char *> malloc(first + second + 1)
    if word == NULL:
        words.error = ENOMEM
        return
    memcpy(word, name, first)
    memcpy(word + first, value, second)
    word[first + second] = 0
    words.word[words.count] = word
    words.count += 1


cdef void cr_add(cr_words_t *words, const char *name, const char *value) noexcept nogil:
    cr_add_some(words, name, value, strlen(value))


cdef void cr_add_number(cr_words_t *words, const char *name, long long number,
                        const char *rest) noexcept nogil:
    cdef char text[64]
    snprintf(text, sizeof(text), b"%lld%s", number, rest)
    cr_add(words, name, text)


cdef void cr_free(cr_words_t *words) noexcept nogil:
    cdef int i
    for i in range(words.count):
        free(words.word[i])


cdef void cr_locate "pycr_locate"() noexcept nogil:
    """Find PREFIX/bin/pycr from PREFIX/lib/libpycr.so.0.

    When the library is loaded: its name may be relative to the directory of that moment.
    """
    cdef Dl_info info
    cdef char path[PATH_SIZE]
    cdef char *slash
    cdef int up
    if dladdr(<const void *> cr_pycr, &info) == 0 or realpath(info.dli_fname, path) == NULL:
        return
    for up in range(2):
        slash = strrchr(path, c'/')
        if slash == NULL:
            return
        slash[0] = 0
    if strlen(path) < PATH_SIZE - 16:
        snprintf(cr_pycr, PATH_SIZE, b"%s/bin/pycr", path)


cdef bint cr_has_scontrol(const char *directory, int length, const char *below) noexcept nogil:
    cdef char path[PATH_SIZE]
    cdef int size = snprintf(path, sizeof(path), b"%.*s%s/scontrol", length, directory, below)
    return size < <int> sizeof(path) and access(path, X_OK) == 0


cdef void cr_add_path(cr_words_t *words) noexcept nogil:
    """Add PATH: Slurm's commands, of the Slurm that the program has loaded, and the system's.

    The program's own PATH is not trusted with what these have; it is where to look for Slurm when
    there is none in them.
    """
    cdef char path[2 * PATH_SIZE]
    cdef const char *system = b"/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
    cdef Dl_info info
    cdef const char *place
    cdef const char *end
    cdef int length
    cdef void *slurm = dlsym(RTLD_DEFAULT, b"slurm_strerror")
    if slurm != NULL and dladdr(slurm, &info) != 0 and info.dli_fname[0] == c'/':
        length = <int> strlen(info.dli_fname)
        while length > 0:
            length -= 1
            if info.dli_fname[length] == c'/' and length < PATH_SIZE - 8:
                if cr_has_scontrol(info.dli_fname, length, b"/bin"):
                    snprintf(path, sizeof(path), b"%.*s/bin:%s", length, info.dli_fname, system)
                    cr_add(words, b"PATH=", path)
                    return
    place = secure_getenv(b"PATH")
    if cr_has_scontrol(b"/usr/local/bin", 14, b"") or cr_has_scontrol(b"/usr/bin", 8, b""):
        place = NULL
    while place != NULL and place[0] != 0:
        end = strchr(place, c':')
        length = <int> (end - place) if end != NULL else <int> strlen(place)
        if place[0] == c'/' and length < PATH_SIZE and cr_has_scontrol(place, length, b""):
            snprintf(path, sizeof(path), b"%s:%.*s", system, length, place)
            cr_add(words, b"PATH=", path)
            return
        place = end + 1 if end != NULL else NULL
    cr_add(words, b"PATH=", system)


cdef void cr_add_account(cr_words_t *words) noexcept nogil:
    """Add HOME, USER and LOGNAME as the user database has them."""
    cdef account_t entry
    cdef account_t *found = NULL
    cdef char *space
    cdef size_t size = 4096
    cdef int rc = ERANGE
    while rc == ERANGE and size <= MAX_ACCOUNT:
        space = <char *> malloc(size)
        if space == NULL:
            words.error = ENOMEM
            return
        rc = getpwuid_r(getuid(), &entry, space, size, &found)
        if rc == 0 and found != NULL:
            cr_add(words, b"HOME=", entry.pw_dir)
            cr_add(words, b"USER=", entry.pw_name)
            cr_add(words, b"LOGNAME=", entry.pw_name)
        free(space)
        size *= 4


cdef void cr_add_kept(cr_words_t *words, const char *name, const char *assigned) noexcept nogil:
    cdef const char *value = secure_getenv(name)
    if value != NULL:
        cr_add(words, assigned, value)


cdef void cr_environment(cr_words_t *words) noexcept nogil:
    """Make the environment: nothing of the program's but how Slurm is reached."""
    memset(words, 0, sizeof(cr_words_t))
    cr_add_path(words)
    cr_add_account(words)
    cr_add_kept(words, b"SLURM_CONF", b"SLURM_CONF=")
    cr_add_kept(words, b"SLURM_CONF_SERVER", b"SLURM_CONF_SERVER=")
    cr_add_kept(words, b"KRB5CCNAME", b"KRB5CCNAME=")
    cr_add(words, b"LC_ALL=C", b"")
    cr_add(words, b"SLURM_TIME_FORMAT=%s", b"")
