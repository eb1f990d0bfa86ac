/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The options as srun hands them over: a letter (c checkpoint, d checkpoint-dir, r restart-dir,
 * h cr-helper, f files) and its value, each with a NUL at its end. A time that is taken is one of the forms
 * of srun(1), read here by sscanf; a step's name is digits, a dot, digits or "batch".
 */
#include "harness.h"
#include "plugin.h"

static long seconds(const char *text)
{
	unsigned d = 0, h = 0, m = 0, s = 0;
	int end = 0;
	const char *forms[] = {"%u-%u:%u:%u%n", "%u-%u:%u%n", "%u-%u%n", "%u:%u:%u%n", "%u:%u%n", "%u%n"};

	for (int i = 0; text[i] != 0; i++) /* or sscanf would take a sign, and blanks */
		if (strchr("0123456789", text[i]) == NULL &&
		    (strchr(":-", text[i]) == NULL || i == 0 || text[i + 1] < '0' || text[i + 1] > '9'))
			return -1;
#define IS(n, ...) (end = 0, sscanf(text, forms[n], __VA_ARGS__, &end) > 0 && end > 0 && text[end] == 0)
	if (IS(0, &d, &h, &m, &s) || IS(1, &d, &h, &m) || IS(2, &d, &h))
		return d * 86400L + h * 3600L + (strchr(text, ':') ? m * 60L : 0) +
		       (strchr(text, ':') != strrchr(text, ':') ? s : 0);
	if (IS(3, &h, &m, &s))
		return h * 3600L + m * 60L + s;
	if (IS(4, &m, &s))
		return m * 60L + s;
	return IS(5, &m) ? m * 60L : -1;
}

static bool long_number(const char *text)
{
	int run = 0;

	for (; *text; text++) {
		run = *text >= '0' && *text <= '9' ? run + 1 : 0;
		if (run > 6)
			return true;
	}
	return false;
}

static bool step_name(const char *text)
{
	const char *dot = strchr(text, '.');
	size_t digits = strspn(text, "0123456789");

	return strlen(text) < sizeof(OPTIONS.helper) && dot != NULL && dot == text + digits &&
	       digits > 0 && dot[1] != 0 &&
	       (strcmp(dot, ".batch") == 0 || strspn(dot + 1, "0123456789") == strlen(dot + 1));
}

static int give(const char *name, const char *value)
{
	for (int i = 0; i < option_count; i++)
		if (strcmp(registered[i].name, name) == 0)
			return registered[i].cb(registered[i].val, value, 1);
	abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *at = data, *end = data + size;
	char *none[] = {NULL};

	fresh();
	context = S_CTX_REMOTE;
	slurm_spank_init(NULL, 0, none);
	hold(option_count == 11);
	while (at < end) {
		int letter = *at++;
		char *value = word(&at, end, 0);
		if (letter == 'c') {
			bool good = give("checkpoint", value) == 0;
			long wanted = long_number(value) ? -1 : seconds(value);
			if (strcmp(value, "auto") == 0) {
				hold(good && OPTIONS.checkpoint == -1);
				free(value);
				continue;
			}
			hold(good == (wanted > 0 && wanted <= 0x7fffffff));
			hold(OPTIONS.checkpoint == (good ? wanted : 0));
		} else if (letter == 'd' || letter == 'r') {
			bool good = give(letter == 'd' ? "checkpoint-dir" : "restart-dir", value) == 0;
			hold(good == (*value != 0 && strlen(value) < 4095));
			hold(!good || strcmp(letter == 'd' ? OPTIONS.checkpoint_dir : OPTIONS.restart_dir, value) == 0);
		} else if (letter == 'f') {
			bool good = strcmp(value, "cut") == 0 || strcmp(value, "keep") == 0 || strcmp(value, "refuse") == 0;
			hold((give("files", value) == 0) == good);
			hold(strlen(OPTIONS.files) > 0 && strlen(OPTIONS.files) < sizeof(OPTIONS.files));
		} else if (letter == 'h') {
			hold((give("cr-helper", value) == 0) == step_name(value));
			hold(strlen(OPTIONS.helper) < sizeof(OPTIONS.helper));
		}
		free(value);
	}
	return 0;
}
