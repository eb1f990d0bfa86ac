/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The frame that srun's plugin sends: the socket's path, a NUL, job id, step id, a byte, and the
 * nodelist. What is sent is the frame of srun_cr/frames.py, whatever these are; a socket that takes
 * only a part ends it.
 */
#include "harness.h"

static char sent[1 << 16];
static size_t used, room;

static ssize_t made_send(int fd, const void *data, size_t size, int flags)
{
	(void)fd;
	if (flags != MSG_NOSIGNAL)
		abort();
	if (used + size > room)
		size = room - used;
	memcpy(sent + used, data, size);
	used += size;
	return size;
}

static int made_connect(int fd, const void *address, uint32_t size)
{
	(void)fd;
	(void)size;
	if (memchr(((const struct sockaddr_un *)address)->sun_path, 0, 108) == NULL)
		abort();
	return 0;
}

#define send made_send
#define connect made_connect
#define socket(domain, type, protocol) 1000
#define close(fd) ((void)(fd))
#include "plugin.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *at = data, *end = data + size;
	char *path = word(&at, end, 0);
	uint32_t ids[2];
	int32_t length;

	fresh();
	if (end - at < 9)
		goto out;
	memcpy(ids, at, 8);
	room = at[8] == 0 ? sizeof(sent) : at[8];
	at += 9;
	nodelist = word(&at, end, 0);
	length = strlen(nodelist);
	used = 0;
	items[S_JOB_ID].set = items[S_JOB_STEPID].set = true;
	items[S_JOB_ID].value = ids[0];
	items[S_JOB_STEPID].value = ids[1];
	setenv("SLURM_SRUN_CR_SOCKET", path, 1);
	hold(slurm_spank_local_user_init(NULL, 0, NULL) == 0);
	if (strlen(path) >= 108) {
		hold(used == 0);
	} else if (room == sizeof(sent)) {
		hold(used == 12 + (size_t)length + 1);
		hold(memcmp(sent, ids, 8) == 0 && memcmp(sent + 8, &length, 4) == 0);
		hold(memcmp(sent + 12, nodelist, length + 1) == 0);
	}
	free(nodelist);
out:
	free(path);
	return 0;
}
