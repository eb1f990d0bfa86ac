/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What srun takes from its pod: two bytes of how much a read gives, the command line of process 1 to
 * the first line feed, and the pod's answer. A variable changes only where the answer names it, and
 * had one of the values that it tells of; half an answer changes nothing.
 */
#include "harness.h"

enum { CMDLINE = 1000, POD };
static const uint8_t *input[2];
static size_t left[2], most;
static void *taken[64];
static int taken_count;

static int made_open(const char *path, int flags, ...)
{
	(void)flags;
	return strcmp(path, "/proc/1/cmdline") == 0 ? CMDLINE : -1;
}

static ssize_t made_read(int fd, void *into, size_t size)
{
	int which = fd - CMDLINE;

	size = size < most ? size : most;
	size = size < left[which] ? size : left[which];
	memcpy(into, input[which], size);
	input[which] += size;
	left[which] -= size;
	return size;
}

static int made_getsockopt(int fd, int level, int name, void *value, uint32_t *size)
{
	(void)fd;
	(void)level;
	(void)name;
	(void)size;
	((struct ucred *)value)->uid = getuid();
	return 0;
}

/* The plugin frees nothing: its process is soon another program. */
static void *keep(void *made)
{
	if (taken_count == 64)
		abort();
	return taken[taken_count++] = made;
}

static void *made_realloc(void *old, size_t size)
{
	for (int i = 0; i < taken_count; i++)
		if (taken[i] == old)
			return taken[i] = (realloc)(old, size);
	abort();
}

static void *made_malloc(size_t size)
{
	return keep((malloc)(size));
}

static void *made_calloc(size_t count, size_t size)
{
	return keep((calloc)(count, size));
}

#define open made_open
#define read made_read
#define close(fd) ((void)(fd))
#define socket(domain, type, protocol) POD
#define connect(fd, address, size) ((void)(fd), (void)(address), (void)(size), 0)
#define getsockopt made_getsockopt
#define setsockopt(fd, level, name, value, size) ((void)(fd), (void)(value), 0)
#define send(fd, data, size, flags) ((void)(fd), (void)(data), (ssize_t)(size))
#define malloc made_malloc
#define calloc made_calloc
#define realloc made_realloc
#include "plugin.h"
#undef malloc
#undef calloc

/* Whether the answer names the variable, at the beginning or behind an empty string. */
static bool named(const char *name, const char *answer, size_t size)
{
	for (size_t i = 0; i < size; i += strlen(answer + i) + 1)
		if (strcmp(answer + i, name) == 0)
			return true;
	return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *values[] = {"SLURM_JOB_ID", "7", "HOME", "/h", "SLURM_E", "", "SLURM_NONE", NULL};
	const uint8_t *at = data + 2, *end = data + size;
	const uint8_t *line;
	char *answer, *none[] = {NULL};
	bool whole;

	if (size < 2)
		return 0;
	fresh();
	most = 1 + data[0] + 256 * data[1];
	line = memchr(at, '\n', end - at);
	input[0] = at;
	left[0] = (line == NULL ? end : line) - at;
	at = line == NULL ? end : line + 1;
	input[1] = at;
	left[1] = end - at;
	clearenv();
	for (int i = 0; i < 8; i += 2)
		if (values[i + 1] != NULL)
			setenv(values[i], values[i + 1], 1);
	size = end - at;
	answer = memcpy(calloc(1, size + 1), at, size);
	/* It ends with an empty string, which has its own NUL or is all that follows the last one. */
	whole = size >= 1 && answer[size - 1] == 0 && (size == 1 || answer[size - 2] == 0);
	context = S_CTX_LOCAL;
	slurm_spank_init(NULL, 0, none);
	for (int i = 0; i < 8; i += 2) {
		const char *now = getenv(values[i]);
		bool same = now == NULL || values[i + 1] == NULL ? now == values[i + 1]
								 : strcmp(now, values[i + 1]) == 0;
		hold(same || (whole && named(values[i], answer, size)));
	}
	free(answer);
	while (taken_count > 0)
		free(taken[--taken_count]);
	return 0;
}
