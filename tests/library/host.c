/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Programs that make it hard for a library to run another program: `host SCENE [DIRECTORY]`. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include <pycr/slurm.h>
#include <pycr/slurm_errno.h>

#define CHECK(what)                                                                                \
	do {                                                                                       \
		if (!(what)) {                                                                     \
			fprintf(stderr, "%s:%d: not: %s (errno %d)\n", __FILE__, __LINE__, #what, \
				errno);                                                            \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

static volatile sig_atomic_t handled;
static const char *directory;

/* One call whose answer nobody else's call has. */
static void call(uint32_t job)
{
	char wanted[32], *message = NULL;
	uint32_t code = 0;
	snprintf(wanted, sizeof(wanted), "of error %u", job);
	errno = 77;
	CHECK(slurm_checkpoint_error(job, NO_VAL, &code, &message) == 0);
	CHECK(slurm_get_errno() == 77);
	CHECK(code == job && !strcmp(message, wanted));
	free(message);
}

static void reap(int signo)
{
	int before = errno;
	(void)signo;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		handled++;
	errno = before;
}

static void count(int signo)
{
	(void)signo;
	handled++;
}

static int descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int found = 0;
	while (readdir(dir))
		found++;
	closedir(dir);
	return found;
}

static void *steal(void *unused)
{
	(void)unused;
	for (;;) {
		if (waitpid(-1, NULL, __WALL) < 0)
			usleep(100);
		pthread_testcancel();
	}
	return NULL;
}

static void *calls(void *first)
{
	for (uint32_t i = 0; i < 25; i++) {
		call((uint32_t)(size_t)first + i);
		errno = 0;
		CHECK(slurm_checkpoint_disable(0, i) == -1 && errno == ESLURM_INVALID_JOB_ID);
	}
	return NULL;
}

static void *disable(void *unused)
{
	(void)unused;
	CHECK(slurm_checkpoint_disable(7, 0) == 0);
	handled = 1;
	pthread_testcancel();
	return NULL;
}

static int fifo(void)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/fifo", directory);
	return open(path, O_WRONLY);
}

int main(int argc, char **argv)
{
	const char *scene = argv[1];
	pthread_t threads[8];
	struct sigaction action = { .sa_handler = count };
	directory = argc > 2 ? argv[2] : ".";
	if (!strcmp(scene, "ignored")) {
		signal(SIGCHLD, SIG_IGN);
		call(5);
		CHECK(signal(SIGCHLD, SIG_DFL) == SIG_IGN);
	} else if (!strcmp(scene, "reaper")) {
		signal(SIGCHLD, reap);
		for (int i = 1; i < 20; i++)
			call(i);
		CHECK(handled == 0);
		if (fork() == 0)
			_exit(0);
		while (handled == 0)
			usleep(100);
	} else if (!strcmp(scene, "thief")) {
		/* It takes what is the library's, and still the answers are right. */
		pthread_create(threads, NULL, steal, NULL);
		for (int i = 1; i < 20; i++)
			call(i);
		pthread_cancel(threads[0]);
		pthread_join(threads[0], NULL);
	} else if (!strcmp(scene, "alarms")) {
		struct itimerval every = { { 0, 500 }, { 0, 500 } };
		sigaction(SIGALRM, &action, NULL);
		setitimer(ITIMER_REAL, &every, NULL);
		for (int i = 1; i < 100; i++)
			call(i);
		CHECK(handled > 10);
	} else if (!strcmp(scene, "many")) {
		call(1);
		int before = descriptors();
		for (int i = 1; i <= 1000; i++)
			call(i);
		CHECK(descriptors() == before);
		CHECK(waitpid(-1, NULL, __WALL) == -1 && errno == ECHILD);
	} else if (!strcmp(scene, "threads")) {
		for (size_t i = 0; i < 8; i++)
			pthread_create(&threads[i], NULL, calls, (void *)(i * 1000 + 1));
		for (int i = 0; i < 8; i++)
			pthread_join(threads[i], NULL);
	} else if (!strcmp(scene, "untidy")) {
		/* Standard streams closed, others open, every signal blocked or ignored. */
		sigset_t every, now;
		sigfillset(&every);
		for (int i = 100; i < 200; i++)
			CHECK(dup2(0, i) == i);
		for (int i = 1; i < 32; i++)
			signal(i, i == SIGSEGV || i == SIGBUS ? SIG_DFL : SIG_IGN);
		sigprocmask(SIG_SETMASK, &every, NULL);
		int complaints = fcntl(2, F_DUPFD_CLOEXEC, 250);
		close(0);
		close(1);
		close(2);
		int rc = slurm_checkpoint_disable(7, 0);
		dup2(complaints, 2);
		CHECK(rc == 0);
		sigprocmask(SIG_SETMASK, NULL, &now);
		CHECK(sigismember(&now, SIGTERM));
		CHECK(fcntl(0, F_GETFD) == -1 && fcntl(1, F_GETFD) == -1);
	} else if (!strcmp(scene, "pipe")) {
		/* While it waits, nobody but us holds our pipe open; a cancelled thread leaves nothing. */
		int ends[2], before = descriptors();
		CHECK(pipe(ends) == 0);
		pthread_create(threads, NULL, disable, NULL);
		int started = fifo();
		pthread_cancel(threads[0]);
		close(ends[1]);
		struct pollfd end = { .fd = ends[0], .events = POLLIN };
		CHECK(poll(&end, 1, 20000) == 1 && end.revents == POLLHUP);
		CHECK(handled == 0);
		close(started);
		close(ends[0]);
		pthread_join(threads[0], NULL);
		CHECK(handled == 1 && descriptors() == before);
	} else if (!strcmp(scene, "moved")) {
		CHECK(chdir("/") == 0);
		call(1);
	} else if (!strcmp(scene, "held")) {
		/* pycr has left somebody who has its output: the call is over all the same. */
		CHECK(slurm_checkpoint_disable(7, 0) == 0);
		close(fifo());
	} else {
		return 2;
	}
	return 0;
}
