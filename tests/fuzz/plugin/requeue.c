/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The requeue file: the directory's pattern to the first NUL, then the file. What the plugin takes is
 * one absolute path and a line feed, in 4095 bytes: requeue_file.py has the same for pycr.
 */
#include "harness.h"

enum { FILE_OF_THE_USER = 1000 };
static const uint8_t *content;
static size_t content_size;
static jmp_buf ended;

static int made_open(const char *path, int flags, ...)
{
	(void)flags;
	hold(strlen(path) < 2 * 4096);
	return FILE_OF_THE_USER;
}

static int made_fstat(int fd, struct stat *st)
{
	(void)fd;
	memset(st, 0, sizeof(*st));
	st->st_mode = S_IFREG | 0600;
	st->st_uid = getuid();
	return 0;
}

static ssize_t made_read(int fd, void *into, size_t size)
{
	(void)fd;
	size = size < content_size ? size : content_size;
	memcpy(into, content, size);
	return size;
}

static void made_exit(int status)
{
	longjmp(ended, status);
}

#define open made_open
#define fstat made_fstat
#define read made_read
#define close(fd) ((void)(fd))
#define _exit made_exit
#define exit made_exit
#include "plugin.h"
#undef exit
#undef _exit

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *at = data, *end = data + size;
	char *pattern = word(&at, end, 0);
	bool wanted;

	fresh();
	items[S_JOB_ID].set = true;
	items[S_JOB_ID].value = 4294967295u;
	content = at;
	content_size = end - at;
	size = content_size < 4095 ? content_size : 4095;
	wanted = size > 1 && at[0] == '/' && memchr(at, '\n', size) == at + size - 1 &&
		 memchr(at, 0, size) == NULL;
	if (strlen(pattern) < sizeof(CONFIG.checkpoint_dir)) {
		strcpy(CONFIG.checkpoint_dir, pattern);
		strcpy(BATCH.user, "alice");
		strcpy(BATCH.home, "/home/alice");
		if (setjmp(ended) == 0) {
			__pyx_f_8spank_cr_cr_batch_find(NULL, "requeue");
			/* It did not ask for the file, or took it. */
			hold(!BATCH.requeued || wanted);
		} else {
			hold(!wanted);
		}
		hold(!BATCH.requeued || strlen(OPTIONS.restart_dir) == size - 1);
	}
	free(pattern);
	return 0;
}
