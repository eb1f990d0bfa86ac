/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The plugin in the target's own translation unit, so that it can begin anew for each input.
 */
#include "spank_cr.c"

#define CONFIG __pyx_v_8spank_cr_config
#define OPTIONS __pyx_v_8spank_cr_options
#define BATCH __pyx_v_8spank_cr_cr_batch

/* As a process that has just loaded the plugin. */
static void fresh(void)
{
	memset(&CONFIG, 0, sizeof(CONFIG));
	memset(&OPTIONS, 0, sizeof(OPTIONS));
	memset(&BATCH, 0, sizeof(BATCH));
	while (option_count > 0)
		free(registered[--option_count].name);
}
