/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The spank_ and slurm_ functions that the plugin imports, and what host.c's script sets for them
 * to give. Each prints what it was called with where that is to be asserted on. One translation
 * unit with host.c, which includes what is needed here.
 */
#define ROOM 64
static const struct { const char *name; spank_item_t item; } names[] = {
	{"job", S_JOB_ID},   {"step", S_JOB_STEPID},      {"tasks", S_JOB_TOTAL_TASK_COUNT},
	{"task", S_TASK_ID}, {"global", S_TASK_GLOBAL_ID}, {"uid", S_JOB_UID},
	{"array", S_JOB_ARRAY_ID},
};
static struct { bool set; uint32_t value; } items[ROOM];
static spank_context_t context = S_CTX_ERROR;
static struct spank_option registered[ROOM];
/* Slurm ends both vectors with a NULL. */
static partition_info_t partition;
static char *preempt_type;
static char *args[ROOM], *jobenv[ROOM + 1], *words[ROOM + 1], *nodelist;
static int arg_count, option_count, jobenv_count, word_count;
static bool full, nojobenv, hurry;
static void *plugin;

static void die(const char *what, const char *why)
{
	dprintf(1, "host: %s: %s\n", what, why);
	_exit(99);
}

/* The functions that Slurm gives a plugin. */

spank_context_t spank_context(void)
{
	return context;
}

spank_err_t spank_option_register(spank_t sp, struct spank_option *opt)
{
	(void)sp;
	if (full || option_count == ROOM)
		return ESPANK_NOSPACE;
	registered[option_count] = *opt;
	registered[option_count++].name = strdup(opt->name);
	dprintf(1, "registered %s %s\n", opt->name, opt->has_arg ? opt->arginfo : "-");
	return ESPANK_SUCCESS;
}

spank_err_t spank_get_item(spank_t sp, spank_item_t item, ...)
{
	va_list list;
	void *first, *second;
	uint32_t *into;

	(void)sp;
	va_start(list, item);
	first = va_arg(list, void *);
	second = item == S_JOB_ARGV ? va_arg(list, void *) : NULL;
	va_end(list);
	if (item == S_JOB_ARGV && word_count > 0) {
		*(int *)first = word_count;
		*(char ***)second = words;
		return ESPANK_SUCCESS;
	}
	if (item == S_JOB_ENV && !nojobenv) {
		*(char ***)first = jobenv;
		return ESPANK_SUCCESS;
	}
	into = first;
	if (item >= ROOM || !items[item].set)
		return ESPANK_ERROR;
	*into = items[item].value;
	return ESPANK_SUCCESS;
}

spank_err_t spank_getenv(spank_t sp, const char *var, char *buf, int len)
{
	size_t size = strlen(var);

	(void)sp;
	for (int i = 0; i < jobenv_count; i++)
		if (strncmp(jobenv[i], var, size) == 0 && jobenv[i][size] == '=') {
			if (strlen(jobenv[i] + size + 1) >= (size_t)len)
				return ESPANK_NOSPACE;
			strcpy(buf, jobenv[i] + size + 1);
			return ESPANK_SUCCESS;
		}
	return ESPANK_ENV_NOEXIST;
}

spank_err_t spank_setenv(spank_t sp, const char *var, const char *val, int overwrite)
{
	(void)sp;
	dprintf(1, "spank_setenv %s=%s %d\n", var, val, overwrite);
	return ESPANK_SUCCESS;
}

spank_err_t spank_unsetenv(spank_t sp, const char *var)
{
	(void)sp;
	dprintf(1, "spank_unsetenv %s\n", var);
	return ESPANK_SUCCESS;
}

/* Before libc's own: a test need not wait for as long as a user may have to. */
int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
	const struct timeval brief = {0, 300000};

	if (hurry && level == SOL_SOCKET && name == SO_RCVTIMEO) {
		dprintf(1, "patience %ld\n", (long)((const struct timeval *)value)->tv_sec);
		value = &brief;
	}
	return syscall(SYS_setsockopt, fd, level, name, value, size);
}

#define LOGGER(level)                                                          \
	void slurm_##level(const char *format, ...)                            \
	{                                                                      \
		va_list list;                                                  \
		char text[8192];                                               \
		va_start(list, format);                                        \
		vsnprintf(text, sizeof(text), format, list);                   \
		va_end(list);                                                  \
		dprintf(1, #level ": %s\n", text);                             \
	}
LOGGER(error)
LOGGER(info)
LOGGER(debug)

slurm_step_layout_t *slurm_job_step_layout_get(slurm_step_id_t *step)
{
	slurm_step_layout_t *layout;

	dprintf(1, "layout_get %u %u %#x\n", step->job_id, step->step_id, step->step_het_comp);
	if (nodelist == NULL) {
		errno = ESRCH;
		return NULL;
	}
	layout = calloc(1, sizeof(*layout));
	layout->node_list = nodelist;
	return layout;
}

void slurm_job_step_layout_free(slurm_step_layout_t *layout)
{
	dprintf(1, "layout_free\n");
	free(layout);
}

int slurm_load_partitions(time_t since, partition_info_msg_t **found, uint16_t flags)
{
	dprintf(1, "load_partitions %ld %u\n", (long)since, flags);
	if (partition.name == NULL)
		return SLURM_ERROR;
	*found = calloc(1, sizeof(**found));
	(*found)->record_count = 1;
	(*found)->partition_array = &partition;
	return SLURM_SUCCESS;
}

int slurm_load_ctl_conf(time_t since, slurm_conf_t **found)
{
	dprintf(1, "load_ctl_conf %ld\n", (long)since);
	if (preempt_type == NULL)
		return SLURM_ERROR;
	*found = calloc(1, sizeof(**found));
	(*found)->preempt_type = preempt_type;
	return SLURM_SUCCESS;
}

#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(26, 5, 0)
#define slurm_free_ctl_conf slurm_free_conf
#endif
void slurm_free_ctl_conf(slurm_conf_t *found)
{
	free(found);
}

void slurm_free_partition_info_msg(partition_info_msg_t *found)
{
	free(found);
}
