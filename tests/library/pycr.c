/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In the place of pycr, to see how the library runs it. The thing under test is the library.
 *
 * Without a file PREFIX/plan it answers, at once, "error(JOB): of VERB JOB". With one it first tells
 * what it was given, in PREFIX/report/, then does what the plan's first line says (exit N, kill N,
 * hold: leaves a child that keeps its output open, wait: until PREFIX/fifo was opened and closed)
 * after it has printed the rest of the plan.
 */

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char prefix[PATH_MAX];

static FILE *beside(const char *name, const char *mode)
{
	char path[PATH_MAX + 32];
	snprintf(path, sizeof(path), "%s/%s", prefix, name);
	return fopen(path, mode);
}

static void copy(FILE *from, FILE *to)
{
	int c;
	while ((c = getc(from)) != EOF)
		putc(c, to);
	fclose(from);
}

static void report(void)
{
	static const char *const files[] = { "cmdline", "environ", "status" };
	char path[PATH_MAX], link[PATH_MAX];
	struct dirent *entry;
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "/proc/self/%s", files[i]);
		FILE *from = fopen(path, "r");
		snprintf(path, sizeof(path), "report/%s", files[i]);
		FILE *to = beside(path, "w");
		copy(from, to);
		fclose(to);
	}
	DIR *dir = opendir("/proc/self/fd");
	char text[65536] = "";
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(dir))
			continue;
		ssize_t size = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
		link[size < 0 ? 0 : size] = 0;
		size_t used = strlen(text);
		snprintf(text + used, sizeof(text) - used, "%s %.20s\n", entry->d_name, link);
	}
	closedir(dir);
	FILE *to = beside("report/fds", "w");
	fputs(text, to);
	fclose(to);
}

int main(int argc, char **argv)
{
	char word[16] = "", line[64];
	int number = 0;
	snprintf(prefix, sizeof(prefix), "%s", argv[0]);
	*strrchr(prefix, '/') = 0;
	*strrchr(prefix, '/') = 0;
	char path[PATH_MAX + 32];
	snprintf(path, sizeof(path), "%s/plan", prefix);
	if (access(path, R_OK)) {
		printf("error(%d): of %s %s\n", atoi(argv[argc - 1]), argv[1], argv[argc - 1]);
		return 0;
	}
	report();
	FILE *plan = beside("plan", "r");
	if (!fgets(line, sizeof(line), plan) || sscanf(line, "%15s %d", word, &number) < 1)
		return 99;
	copy(plan, stdout);
	fflush(stdout);
	if (!strcmp(word, "kill"))
		raise(number);
	if (!strcmp(word, "wait") || (!strcmp(word, "hold") && fork() == 0)) {
		FILE *fifo = beside("fifo", "r");
		getc(fifo);
	}
	return number;
}
