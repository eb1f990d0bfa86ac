/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A Slurm that is not there: it loads the plugin named by its first argument and does, line by
 * line, what its standard input says; what happens goes to standard output, a line each, for
 * driver.py to read. It owns the script's lines and the part slurmstepd plays around a task
 * (`task`); the functions that Slurm gives a plugin are in stubs.h. Further arguments are left
 * alone: they are srun's, for the plugin to find in /proc/self/cmdline.
 *
 *   context C           local, allocator, remote or slurmd
 *   arg KEY=VALUE       a word of the plugin's line in plugstack.conf
 *   item NAME NUMBER    uid, job, array, step, tasks, task or global; spank_get_item fails for
 *                       others
 *   word WORD           of the job's command line; without any, spank_get_item fails for it
 *   jobenv NAME=VALUE   in the job's environment, which spank_getenv reads
 *   nojobenv            spank_get_item fails for the job's environment from here on
 *   hurry               a socket's patience (SO_RCVTIMEO) is told, and made 0.3 s
 *   layout NODELIST     of the step; without it slurm_job_step_layout_get fails
 *   partition NAME [no] in which jobs are preempted, or not; without it slurm_load_partitions fails
 *   preempt TYPE        PreemptType of slurm.conf; without it slurm_load_ctl_conf fails
 *   full                spank_option_register fails from here on
 *   setenv NAME=VALUE, unsetenv NAME, getenv NAME
 *   ignore N, block N   a signal
 *   open N              /dev/null as descriptor N, a stray one
 *   hide DIR            an empty, read-only file system over DIR, for this process
 *   nofork              fork fails from here on, but for root
 *   deny CALL           newpid or mount: that system call fails with ENOSPC from here on
 *   hex FILE            what is in FILE
 *   option NAME[=VALUE] call back for a registered option
 *   call HOOK           slurm_spank_HOOK
 *   user UID            become UID
 *   task UID            fork, task_init_privileged, become UID, task_init; its wait status
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <slurm/slurm.h>
#include <slurm/spank.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* Reports go to files, which the pod's parent can write too: it has closed its stderr. Leaks are
 * of no interest, a plugin ends with its process. REPORTS comes from the compiler's command line. */
#ifdef REPORTS
const char *__asan_default_options(void)
{
	return "log_path=" REPORTS ":detect_leaks=0:handle_segv=0:detect_stack_use_after_return=1";
}
const char *__ubsan_default_options(void)
{
	return "log_path=" REPORTS ":print_stacktrace=1";
}
#endif

#include "stubs.h"

/* What the script's lines do. */

static int call(const char *hook)
{
	char name[64];
	spank_f *function;

	snprintf(name, sizeof(name), "slurm_spank_%s", hook);
	function = (spank_f *)dlsym(plugin, name);
	if (function == NULL)
		die(name, "the plugin has no such hook");
	return function(NULL, arg_count, args);
}

static void option(char *name)
{
	char *value = strchr(name, '=');

	if (value != NULL)
		*value++ = 0;
	/* The latest of that name, as a second slurm_spank_init would leave it. */
	for (int i = option_count - 1; i >= 0; i--)
		if (strcmp(registered[i].name, name) == 0) {
			dprintf(1, "option %s %d\n", name,
				registered[i].cb(registered[i].val, value, context == S_CTX_REMOTE));
			return;
		}
	die(name, "the plugin registered no such option");
}

static void become(uid_t uid)
{
	if (getuid() != uid && (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid)))
		die("setresuid", strerror(errno));
}

/* Print the lines of /proc/self/status that name them, each with a space for its tab. */
static void capabilities(void)
{
	FILE *file = fopen("/proc/self/status", "r");
	char name[16], value[32], line[256];

	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		if (sscanf(line, "Cap%15s %31s", name, value) == 2)
			dprintf(1, "Cap%s %s\n", name, value);
	if (file != NULL)
		fclose(file);
}

static void task(uid_t uid)
{
	void (*disposition)(int) = signal(SIGCHLD, SIG_DFL); /* `ignore` is for the task */
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		signal(SIGCHLD, disposition);
		call("task_init_privileged");
		become(uid);
		/* The kernel has unset it with the change of uid: see whether the plugin does. */
		prctl(PR_SET_DUMPABLE, 1);
		call("task_init");
		/* slurmstepd would execute the user's command here, which ends capabilities. */
		dprintf(1, "command\nkeepcaps %d\n", prctl(PR_GET_KEEPCAPS));
		dprintf(1, "sigterm %s\n", signal(SIGTERM, SIG_DFL) == SIG_IGN ? "ignored" : "-");
		capabilities();
		_exit(0);
	}
	dprintf(1, "task %d\n", pid);
	if (waitpid(pid, &status, 0) != pid)
		die("waitpid", strerror(errno));
	dprintf(1, "status %d\n", status);
}

static void item(const char *text)
{
	char name[16];
	unsigned value;

	if (sscanf(text, "%15s %u", name, &value) == 2)
		for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
			if (strcmp(name, names[i].name) == 0) {
				items[names[i].item].set = true;
				items[names[i].item].value = value;
				return;
			}
	die(text, "no such item");
}

static void hex(const char *path)
{
	FILE *file = fopen(path, "r");
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	int byte;

	if (file == NULL || out == NULL)
		die(path, strerror(errno));
	while ((byte = getc(file)) != EOF)
		fprintf(out, "%02x", byte);
	fclose(file);
	fclose(out);
	dprintf(1, "%s %s\n", path, text);
	free(text);
}

static void hide(const char *directory)
{
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", directory, "tmpfs", MS_RDONLY, NULL))
		die(directory, strerror(errno));
}

static void deny(const char *name)
{
	bool newpid = strcmp(name, "newpid") == 0;
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, newpid ? SYS_clone : SYS_mount, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, newpid ? CLONE_NEWPID : 0, 0, newpid ? 1 : 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSPC),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = sizeof(filter) / sizeof(*filter), .filter = filter};

	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		die(name, strerror(errno));
}

static void in_context(const char *name)
{
	context = strcmp(name, "local") == 0	   ? S_CTX_LOCAL
		  : strcmp(name, "allocator") == 0 ? S_CTX_ALLOCATOR
		  : strcmp(name, "remote") == 0	   ? S_CTX_REMOTE
		  : strcmp(name, "slurmd") == 0	   ? S_CTX_SLURMD
						   : S_CTX_ERROR;
}

static void obey(const char *verb, char *rest)
{
	sigset_t set;

	if (strcmp(verb, "context") == 0) {
		in_context(rest);
	} else if (strcmp(verb, "arg") == 0 && arg_count < ROOM) {
		args[arg_count++] = strdup(rest);
	} else if (strcmp(verb, "item") == 0) {
		item(rest);
	} else if (strcmp(verb, "jobenv") == 0 && jobenv_count < ROOM) {
		jobenv[jobenv_count++] = strdup(rest);
	} else if (strcmp(verb, "word") == 0 && word_count < ROOM) {
		words[word_count++] = strdup(rest);
	} else if (strcmp(verb, "nojobenv") == 0) {
		nojobenv = true;
	} else if (strcmp(verb, "hurry") == 0) {
		hurry = true;
	} else if (strcmp(verb, "layout") == 0) {
		nodelist = strdup(rest);
	} else if (strcmp(verb, "partition") == 0) {
		partition.name = strdup(strsep(&rest, " "));
		partition.preempt_mode = rest ? PREEMPT_MODE_OFF : PREEMPT_MODE_REQUEUE;
	} else if (strcmp(verb, "preempt") == 0) {
		preempt_type = strdup(rest);
	} else if (strcmp(verb, "full") == 0) {
		full = true;
	} else if (strcmp(verb, "setenv") == 0) {
		putenv(strdup(rest));
	} else if (strcmp(verb, "unsetenv") == 0) {
		unsetenv(rest);
	} else if (strcmp(verb, "getenv") == 0) {
		const char *value = getenv(rest);
		dprintf(1, "%s%s%s\n", rest, value ? "=" : " unset", value ? value : "");
	} else if (strcmp(verb, "ignore") == 0) {
		signal(atoi(rest), SIG_IGN);
	} else if (strcmp(verb, "block") == 0) {
		sigemptyset(&set);
		sigaddset(&set, atoi(rest));
		sigprocmask(SIG_BLOCK, &set, NULL);
	} else if (strcmp(verb, "open") == 0) {
		if (dup2(open("/dev/null", O_RDONLY | O_CLOEXEC), atoi(rest)) < 0)
			die("dup2", strerror(errno));
	} else if (strcmp(verb, "hide") == 0) {
		hide(rest);
	} else if (strcmp(verb, "nofork") == 0) {
		setrlimit(RLIMIT_NPROC, &(struct rlimit){0, 0});
	} else if (strcmp(verb, "deny") == 0) {
		deny(rest);
	} else if (strcmp(verb, "hex") == 0) {
		hex(rest);
	} else if (strcmp(verb, "option") == 0) {
		option(rest);
	} else if (strcmp(verb, "call") == 0) {
		dprintf(1, "return %s %d\n", rest, call(rest));
	} else if (strcmp(verb, "user") == 0) {
		become(strtoul(rest, NULL, 10));
		/* As a program that this user has started: /proc/self is theirs. */
		prctl(PR_SET_DUMPABLE, 1);
	} else if (strcmp(verb, "task") == 0) {
		task(strtoul(rest, NULL, 10));
	} else {
		die(verb, "no such line");
	}
}

int main(int argc, char **argv)
{
	char *line = NULL;
	size_t size = 0;
	ssize_t length;

	if (argc < 2)
		die("usage", "host PLUGIN [SRUN'S ARGUMENT...] < SCRIPT");
	plugin = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
	if (plugin == NULL)
		die("dlopen", dlerror());
	/* A srun that the plugin starts again goes on in the script where this one stopped. */
	setvbuf(stdin, NULL, _IONBF, 0);
	while ((length = getline(&line, &size, stdin)) > 0) {
		char *rest;
		line[length - 1] = 0; /* driver.py ends each line */
		rest = strchr(line, ' ');
		if (rest != NULL)
			*rest++ = 0;
		obey(line, rest ? rest : line + length - 1);
	}
	dprintf(1, "done\n");
	return 0;
}
