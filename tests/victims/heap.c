// SPDX-License-Identifier: GPL-2.0-or-later
// Victim: 64 MiB of heap, a mapped file of 1 MiB and a thread-local counter, changed all the while.
// As kinds.py: `ready`, and 20 rounds after `stop` "pass" and exit 7, or what is wrong.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define WORDS (8 << 20)
#define FILE_WORDS (1 << 17)

static _Thread_local uint64_t rounds;

static uint64_t next(uint64_t x)
{
	x ^= x << 13;
	x ^= x >> 7;
	return x ^ x << 17;
}

static void fill(uint64_t *at, size_t words)
{
	uint64_t x = 88172645463325252ull;

	for (size_t i = 0; i < words; i++)
		at[i] = x = next(x);
}

// Every round adds one to each 4096th word; all else stays as fill() made it.
static int whole(uint64_t *at, size_t words)
{
	uint64_t x = 88172645463325252ull;

	for (size_t i = 0; i < words; i++) {
		x = next(x);
		if (at[i] != x + (i % 4096 == 0 ? rounds : 0))
			return 0;
	}
	return 1;
}

int main(void)
{
	uint64_t *heap = malloc(WORDS * sizeof(*heap)), *file;
	int fd = open("mapped", O_RDWR | O_CREAT, 0600), left = 20;

	if (!heap || fd < 0 || ftruncate(fd, FILE_WORDS * sizeof(*file)) != 0)
		return 1;
	file = mmap(NULL, FILE_WORDS * sizeof(*file), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (file == MAP_FAILED)
		return 1;
	fill(heap, WORDS);
	fill(file, FILE_WORDS);
	while (left > 0) {
		for (size_t i = 0; i < WORDS; i += 4096)
			heap[i]++;
		for (size_t i = 0; i < FILE_WORDS; i += 4096)
			file[i]++;
		if (++rounds == 5)
			close(open("ready", O_WRONLY | O_CREAT, 0600));
		if (access("stop", F_OK) == 0)
			left--;
		usleep(5000);
	}
	if (!whole(heap, WORDS) || !whole(file, FILE_WORDS)) {
		puts("fail: memory differs");
		return 1;
	}
	puts("pass");
	return 7;
}
