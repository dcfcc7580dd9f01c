// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * tree_text LIST KEY...
 *
 * Reads memory.stat of many cgroups through descriptors that stay open, and decodes the KEYs.
 * LIST is a file with the path of a cgroup's directory on each line.
 */
#include <sys/resource.h>

#include "bench.h"

#define MAX_VALUES 256
#define ENOUGH 20000 /* descriptors */

static int *fds;
static unsigned long nr_fds;
static char **keys;
static size_t key_lengths[MAX_VALUES];
static int nr_keys;
static unsigned long long sums[MAX_VALUES];

static void add_line(const char *line, const char *space)
{
	int i;

	for (i = 0; i < nr_keys; i++) {
		if (key_lengths[i] == (size_t)(space - line) && !memcmp(keys[i], line, space - line)) {
			sums[i] += strtoull(space + 1, NULL, 10);
			return;
		}
	}
}

static void read_once(void)
{
	static char text[16384];
	unsigned long i;

	memset(sums, 0, sizeof(sums));
	for (i = 0; i < nr_fds; i++) {
		ssize_t size = pread(fds[i], text, sizeof(text) - 1, 0);
		char *line, *end;

		if (size <= 0)
			die("pread");
		text[size] = '\0';
		for (line = text; (end = strchr(line, '\n')); line = end + 1)
			add_line(line, strchr(line, ' '));
	}
}

static void print_values(void)
{
	int i;

	printf("%lu ", nr_fds);
	for (i = 0; i < nr_keys; i++)
		printf("%llu ", sums[i]);
	printf("\n");
}

static void open_all(const char *list)
{
	struct rlimit limit;
	char path[4096];
	FILE *file = fopen(list, "re");

	if (!file || getrlimit(RLIMIT_NOFILE, &limit))
		die(list);
	if (limit.rlim_max < ENOUGH)
		limit.rlim_max = ENOUGH;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		die("setrlimit");
	while (fgets(path, sizeof(path) - 16, file)) {
		strcpy(path + strcspn(path, "\n"), "/memory.stat");
		fds = realloc(fds, (nr_fds + 1) * sizeof(fds[0]));
		fds[nr_fds++] = open_or_die(path);
	}
	fclose(file);
}

int main(int argc, char **argv)
{
	int i;

	if (argc < 3 || argc > 2 + MAX_VALUES)
		return 2;
	keys = argv + 2;
	nr_keys = argc - 2;
	for (i = 0; i < nr_keys; i++)
		key_lengths[i] = strlen(keys[i]);
	open_all(argv[1]);
	return serve(read_once, print_values);
}
