/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What every target has before the plugin: the C library, the stubs of tests/plugin made silent, and
 * hold(). A target then puts functions of its own in place of system calls, as macros, and includes
 * plugin.h.
 */
#include <Python.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <slurm/slurm.h>
#include <slurm/spank.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int said(int fd, const char *format, ...)
{
	(void)fd;
	(void)format;
	return 0;
}
#define dprintf said
#include "stubs.h"
#undef dprintf

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

const char *__asan_default_options(void)
{
	return "detect_leaks=0:detect_stack_use_after_return=1";
}

#define hold(condition)                                                        \
	do {                                                                   \
		if (!(condition)) {                                            \
			fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__,\
				__LINE__, #condition);                         \
			abort();                                               \
		}                                                              \
	} while (0)

/* Copy up to the next SEPARATOR, which is stepped over, into a string of its own. */
static char *word(const uint8_t **at, const uint8_t *end, int separator)
{
	const uint8_t *stop = *at < end ? memchr(*at, separator, end - *at) : NULL;
	size_t size = (stop ? stop : end) - *at;
	char *made = malloc(size + 1);

	memcpy(made, *at, size);
	made[size] = 0;
	*at = stop ? stop + 1 : end;
	return made;
}
