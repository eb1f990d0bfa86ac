# SPDX-License-Identifier: GPL-2.0-or-later
# The plugin's arguments in plugstack.conf: parse them once, keep what is wrong with them.
#
# A broken setting must never break a plain srun, so nothing here fails: the first fault is kept
# in `config.fault` and is said when --cr, a helper or a restart needs what is broken.
# pycr/config.py reads the same line for the command; a key is added in both.

cdef enum:
    PATH_SIZE = 4096

cdef struct cr_config:
    bint parsed
    char fault[640]
    char python[PATH_SIZE]       # helper interpreter, run with capabilities: see cr_trusted()
    char wrapper[PATH_SIZE]      # srun_cr
    char criu[PATH_SIZE]
    char checkpoint_dir[PATH_SIZE]
    char ptrace[4]
    char parallel[12]
    char ghost_limit[12]

cdef cr_config config


cdef void cr_config_fault(const char *what, const char *key) noexcept nogil:
    if config.fault[0] == 0:
        snprintf(config.fault, sizeof(config.fault), b"plugstack.conf: %s: %.512s", what, key)


cdef bint cr_is_count(const char *value) noexcept nogil:
    """Tell whether value is a plain number of one to nine digits."""
    cdef size_t i = 0
    while value[i] != 0:
        if value[i] < c'0' or value[i] > c'9' or i >= 9:
            return False
        i += 1
    return i > 0


cdef bint cr_is_dir_pattern(const char *value) noexcept nogil:
    """Tell whether value is an absolute path, or one from %h, with no % but %u %h %j %%."""
    cdef size_t i = 0
    if value[0] != c'/' and not (value[0] == c'%' and value[1] == c'h'):
        return False
    while value[i] != 0:
        if value[i] == c'%':
            i += 1
            if value[i] != c'u' and value[i] != c'h' and value[i] != c'j' and value[i] != c'%':
                return False
        i += 1
    return True


cdef void cr_config_path(char *into, const char *value, const char *arg) noexcept nogil:
    if value[0] != c'/' or strlen(value) >= PATH_SIZE:
        cr_config_fault(b"not an absolute path", arg)
    else:
        strcpy(into, value)


cdef void cr_config_count(char *into, const char *value, const char *arg) noexcept nogil:
    if not cr_is_count(value):
        cr_config_fault(b"not a number", arg)
    else:
        strcpy(into, value)


cdef void cr_config_prefix() noexcept nogil:
    """Take the defaults from where the plugin lies: PREFIX/lib/slurm/spank_cr.so."""
    cdef Dl_info info
    cdef char path[PATH_SIZE]
    cdef char *slash
    cdef int up
    if dladdr(<const void *> &config, &info) == 0 or realpath(info.dli_fname, path) == NULL:
        return
    for up in range(3):
        slash = strrchr(path, c'/')
        if slash == NULL:
            return
        slash[0] = 0
    if strlen(path) < PATH_SIZE - 32:
        snprintf(config.python, PATH_SIZE, b"%s/bin/python3", path)
        snprintf(config.wrapper, PATH_SIZE, b"%s/bin/srun_cr", path)


cdef bint cr_config_known(const char *arg, const char *value) noexcept nogil:
    """Check a setting that only the command acts on (pycr/config.py); tell whether it is one."""
    cdef const char *counts[6]
    cdef size_t i
    counts[:] = [b"min_interval=", b"max_size=", b"node_checkpoints=", b"fs_checkpoints=",
                 b"keep=", b"max_wait="]
    for i in range(6):
        if strncmp(arg, counts[i], strlen(counts[i])) == 0:
            if not cr_is_count(value):
                cr_config_fault(b"not a number", arg)
            return True
    if strncmp(arg, b"after_checkpoint=", 17) == 0 or strncmp(arg, b"allowed_dirs=", 13) == 0:
        if value[0] != c'/' or strlen(value) >= PATH_SIZE:
            cr_config_fault(b"not an absolute path", arg)
        return True
    return False


cdef void cr_config_parse(int ac, char **av) noexcept nogil:
    cdef int i
    cdef const char *value
    if config.parsed:
        return
    memset(&config, 0, sizeof(config))
    config.parsed = True
    strcpy(config.checkpoint_dir, b"%h/checkpoint")
    strcpy(config.ptrace, b"no")
    strcpy(config.parallel, b"0")
    strcpy(config.ghost_limit, b"1024")
    cr_config_prefix()
    for i in range(ac):
        value = strchr(av[i], c'=')
        if value == NULL:
            cr_config_fault(b"not KEY=VALUE", av[i])
            continue
        value += 1
        if strncmp(av[i], b"python=", 7) == 0:
            cr_config_path(config.python, value, av[i])
        elif strncmp(av[i], b"srun_cr=", 8) == 0:
            cr_config_path(config.wrapper, value, av[i])
        elif strncmp(av[i], b"criu=", 5) == 0:
            cr_config_path(config.criu, value, av[i])
        elif strncmp(av[i], b"checkpoint_dir=", 15) == 0:
            if strlen(value) >= PATH_SIZE or not cr_is_dir_pattern(value):
                cr_config_fault(b"not an absolute directory (%u, %h, %j and %% may stand in it)",
                                av[i])
            else:
                strcpy(config.checkpoint_dir, value)
        elif strncmp(av[i], b"ptrace=", 7) == 0:
            if strcmp(value, b"yes") != 0 and strcmp(value, b"no") != 0:
                cr_config_fault(b"neither yes nor no", av[i])
            else:
                strcpy(config.ptrace, value)
        elif strncmp(av[i], b"parallel=", 9) == 0:
            cr_config_count(config.parallel, value, av[i])
        elif strncmp(av[i], b"ghost_limit=", 12) == 0:
            cr_config_count(config.ghost_limit, value, av[i])
        elif not cr_config_known(av[i], value):
            cr_config_fault(b"unknown key", av[i])


cdef bint cr_trusted(const char *path, char *fault, size_t size) noexcept nogil:
    """Tell whether only root can change what executing path would run.

    Every component is looked at as it stands, links included, and a link is followed by hand:
    realpath(3) would skip the directory that holds a link in the middle of a chain, whose owner
    could turn it elsewhere.
    """
    cdef char todo[PATH_SIZE]
    cdef char target[PATH_SIZE]
    cdef char joined[2 * PATH_SIZE]
    cdef stat_t st
    cdef size_t i
    cdef long length
    cdef char kept
    cdef int links = 0
    if strlen(path) >= PATH_SIZE or path[0] != c'/':
        snprintf(fault, size, b"%.256s: not an absolute path", path)
        return False
    strcpy(todo, path)
    i = 0
    while True:
        # The next component ends at todo[i]: "/", then "/opt", then "/opt/pycr" and so on.
        while i > 0 and todo[i] != 0 and todo[i] != c'/':
            i += 1
        kept = todo[i if i > 0 else 1]
        todo[i if i > 0 else 1] = 0
        if lstat(todo, &st) != 0:
            snprintf(fault, size, b"%.256s: %s", todo, strerror(errno))
            return False
        if st.st_uid != 0:
            snprintf(fault, size, b"%.256s: does not belong to root", todo)
            return False
        if S_ISLNK(st.st_mode):
            length = readlink(todo, target, PATH_SIZE - 1)
            links += 1
            if length < 0 or links > 40:
                snprintf(fault, size, b"%.256s: %s", todo, strerror(ELOOP))
                return False
            target[length] = 0
            todo[i] = kept
            if target[0] == c'/':
                snprintf(joined, sizeof(joined), b"%s%s", target, todo + i)
            else:
                memcpy(joined, todo, i)
                joined[i] = 0
                strrchr(joined, c'/')[1] = 0
                snprintf(joined + strlen(joined), sizeof(joined) - strlen(joined), b"%s%s",
                         target, todo + i)
            if strlen(joined) >= PATH_SIZE:
                snprintf(fault, size, b"%.256s: %s", path, strerror(ENAMETOOLONG))
                return False
            strcpy(todo, joined)
            i = 0
            continue
        if st.st_mode & (S_IWGRP | S_IWOTH):
            snprintf(fault, size, b"%.256s: others than root may write it", todo)
            return False
        todo[i if i > 0 else 1] = kept
        if todo[i] == 0:
            break
        i += 1
    if not S_ISREG(st.st_mode) or access(path, X_OK) != 0:
        snprintf(fault, size, b"%.256s: not an executable file", path)
        return False
    return True
