/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The plugin's words in plugstack.conf, each with a NUL at its end. It finds fault with all of them
 * together exactly where it does with one of them; and a directory that it takes is one that a
 * batch script's place can be made of. As a library, this tells
 * words.py what the plugin takes.
 */
#include "harness.h"
#include "plugin.h"

static bool takes(int count, char **words)
{
	fresh();
	context = S_CTX_SLURMD;
	slurm_spank_init(NULL, count, words);
	hold(memchr(CONFIG.fault, 0, sizeof(CONFIG.fault)) != NULL);
	hold(CONFIG.python[0] == 0 || CONFIG.python[0] == '/');
	hold(CONFIG.criu[0] == 0 || CONFIG.criu[0] == '/');
	hold(CONFIG.checkpoint_dir[0] == '/' || strncmp(CONFIG.checkpoint_dir, "%h", 2) == 0);
	hold(strlen(CONFIG.parallel) < 10 && strlen(CONFIG.ghost_limit) < 10);
	return CONFIG.fault[0] == 0;
}

__attribute__((visibility("default"))) int plugin_takes(char *text)
{
	return takes(1, &text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *at = data, *end = data + size;
	char *words[ROOM], place[2 * 4096];
	int count = 0;
	bool all = true;

	while (at < end && count < ROOM) {
		words[count] = word(&at, end, 0);
		all = takes(1, words + count) && all;
		count++;
	}
	hold(takes(count, words) == all);
	strcpy(BATCH.user, "alice");
	strcpy(BATCH.home, "/home/alice");
	if (__pyx_f_8spank_cr_cr_batch_place(place, sizeof(place), "4294967295"))
		hold(place[0] == '/' && strlen(place) < sizeof(place));
	while (count > 0)
		free(words[--count]);
	return 0;
}
