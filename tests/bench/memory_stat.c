// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * memory_stat FILE raw
 * memory_stat FILE decode [KEY...]
 *
 * Reads memory.stat through a descriptor that stays open. With "decode" it also decodes the
 * lines of the KEYs, or all lines if there are none.
 */
#include <stdbool.h>

#include "bench.h"

#define MAX_VALUES 256

static int stat_fd;
static bool decode;
static char **keys;
static size_t key_lengths[MAX_VALUES];
static int nr_keys;
static char text[16384];
static unsigned long long values[MAX_VALUES];
static int nr_values;

/* The key's index, or -1 if it is not wanted. */
static int wanted(const char *name, size_t length)
{
	int i;

	for (i = 0; i < nr_keys; i++)
		if (key_lengths[i] == length && !memcmp(keys[i], name, length))
			return i;
	return -1;
}

static void read_once(void)
{
	ssize_t size = pread(stat_fd, text, sizeof(text) - 1, 0);
	char *line, *space, *end;

	if (size <= 0)
		die("pread");
	if (!decode)
		return;
	text[size] = '\0';
	nr_values = nr_keys;
	for (line = text; *line; line = strchr(end, '\n') + 1) {
		int at;

		space = end = strchr(line, ' ');
		at = nr_keys ? wanted(line, space - line) : nr_values++;
		if (at >= MAX_VALUES)
			die("too many lines");
		if (at >= 0)
			values[at] = strtoull(space + 1, &end, 10);
	}
}

static void print_values(void)
{
	int i;

	for (i = 0; i < nr_values; i++)
		printf("%llu ", values[i]);
	printf("\n");
}

int main(int argc, char **argv)
{
	int i;

	if (argc < 3 || argc > 3 + MAX_VALUES)
		return 2;
	stat_fd = open_or_die(argv[1]);
	decode = !strcmp(argv[2], "decode");
	keys = argv + 3;
	nr_keys = argc - 3;
	for (i = 0; i < nr_keys; i++)
		key_lengths[i] = strlen(keys[i]);
	return serve(read_once, print_values);
}
