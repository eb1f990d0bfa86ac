/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A target without a fuzzer: it is given every file that is named.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
	static uint8_t data[1 << 20];

	for (int i = 1; i < argc; i++) {
		FILE *file = fopen(argv[i], "rb");
		uint8_t *exact;
		size_t size;
		if (file == NULL)
			return 2;
		size = fread(data, 1, sizeof(data), file);
		fclose(file);
		/* Of its own size, so that a sanitizer sees what is read behind it. */
		exact = malloc(size ? size : 1);
		for (size_t j = 0; j < size; j++)
			exact[j] = data[j];
		fprintf(stderr, "%s\n", argv[i]);
		LLVMFuzzerTestOneInput(exact, size);
		free(exact);
	}
	return 0;
}
