# SPDX-License-Identifier: GPL-2.0-or-later
# The names that checkpoint/blcr gave its images, for --restart-dir (pycr/images/oldnames.py).
#
#     DIR/12.3/task.0.ckpt, DIR/12.3.ckpt                 -> DIR/12.3
#     DIR/12/script.ckpt,   DIR/12.ckpt,   DIR/12         -> DIR/12.batch


cdef size_t cr_digits(const char *text) noexcept nogil:
    """Return how many digits text begins with."""
    cdef size_t n = 0
    while text[n] >= c'0' and text[n] <= c'9':
        n += 1
    return n


cdef bint cr_is_old_image(const char *name) noexcept nogil:
    """Tell whether a file's name is script.ckpt or task.N.ckpt."""
    cdef size_t n
    if strcmp(name, b"script.ckpt") == 0:
        return True
    if strncmp(name, b"task.", 5) != 0:
        return False
    n = cr_digits(name + 5)
    return n > 0 and strcmp(name + 5 + n, b".ckpt") == 0


cdef char *cr_last(char *path) noexcept nogil:
    """Return where the last component of a path begins, slashes behind it cut off."""
    cdef char *slash
    cdef size_t n = strlen(path)
    while n > 1 and path[n - 1] == c'/':
        n -= 1
        path[n] = 0
    slash = strrchr(path, c'/')
    return path if slash == NULL else slash + 1


cdef bint cr_is_blcr(char *path) noexcept nogil:
    """Tell whether a path is a file by an old image's name."""
    cdef stat_t st
    cdef size_t n = strlen(path)
    return (n > 5 and strcmp(path + n - 5, b".ckpt") == 0 and stat(path, &st) == 0 and
            S_ISREG(st.st_mode))


cdef void cr_successor(char *path) noexcept nogil:
    """Turn an old image's name into that of its successor, where there is nothing by the old one.

    path: of PATH_SIZE bytes.
    """
    cdef stat_t st
    cdef char *name
    cdef size_t n
    if path[0] == 0 or stat(path, &st) == 0:
        return
    name = cr_last(path)
    if cr_is_old_image(name):
        if name - path < 2:               # "task.0.ckpt" in the current directory, or in /
            return
        name[0] = 0
        name = cr_last(path)
    else:
        n = strlen(name)
        if n > 5 and strcmp(name + n - 5, b".ckpt") == 0 and cr_digits(name) > 0:
            name[n - 5] = 0
    n = cr_digits(name)
    if n > 0 and name[n] == 0 and strlen(path) + 7 < PATH_SIZE:
        strcat(path, b".batch")
        if stat(path, &st) != 0:
            name[n] = 0
