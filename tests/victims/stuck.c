// SPDX-License-Identifier: GPL-2.0-or-later
// Victim: cannot be frozen until there is a file `go`, for its main thread waits in vfork(2), which
// only the child's end interrupts. A second thread ticks all the while: the size of `beat` grows.
// Ends with 0 when there is a file `stop`.
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static void *tick(void *arg)
{
	(void)arg;
	for (long n = 1;; n++) {
		if (truncate("beat", n) != 0)
			_exit(1);
		usleep(10000);
	}
	return NULL;
}

int main(void)
{
	pthread_t thread;
	FILE *beat = fopen("beat", "w");

	if (!beat || fclose(beat) != 0 || pthread_create(&thread, NULL, tick, NULL) != 0)
		return 1;
	if (vfork() == 0) {
		while (access("go", F_OK) != 0)
			usleep(10000);
		_exit(0);
	}
	while (access("stop", F_OK) != 0)
		usleep(10000);
	return 0;
}
