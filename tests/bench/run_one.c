// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * run_one OBJECT RODATA CGROUP NR_ITEMS [FLUSH_FILE]
 *
 * Does what StatsReader does with the transport "run", without Python.
 */
#include <sys/stat.h>

#include "package_object.h"
#include "memcg_stats.h"

static struct {
	struct memcg_stats_call call;
	struct memcg_stats_row row;
	__u64 values[MEMCG_STATS_MAX_ITEMS];
} one;
static int program_fd, nr_items;
static int flush_fd = -1;

static void read_once(void)
{
	LIBBPF_OPTS(bpf_test_run_opts, options, .ctx_in = &one,
		    .ctx_size_in = sizeof(one.call) + sizeof(one.row) + nr_items * sizeof(__u64));

	flush_by(flush_fd);
	if (bpf_prog_test_run_opts(program_fd, &options) ||
	    one.call.status != MEMCG_STATS_DONE || one.call.nr_rows != 1)
		die("run");
}

static void print_values(void)
{
	int i;

	for (i = 0; i < nr_items; i++)
		printf("%llu ", one.values[i]);
	printf("\n");
}

int main(int argc, char **argv)
{
	struct loaded loaded;
	struct stat status;

	if (argc < 5)
		return 2;
	loaded = load(argv[1], "memcg_run_one", argv[2], NULL, 0, 0);
	program_fd = bpf_program__fd(loaded.program);
	if (stat(argv[3], &status))
		die(argv[3]);
	one.call.cgroup_id = status.st_ino;
	nr_items = atoi(argv[4]);
	if (argc > 5)
		flush_fd = open_or_die(argv[5]);
	return serve(read_once, print_values);
}
