// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * run_dir OBJECT RODATA CGROUP NR_ITEMS SLOT_SIZE NR_CPUS [FLUSH_FILE]
 *
 * Does what StatsReader does with the backend core and the transport "run", without Python.
 */
#include <sys/mman.h>
#include <sys/stat.h>

#include "package_object.h"
#include "memcg_stats.h"

static __u64 values[MEMCG_STATS_MAX_ITEMS + 2];	/* and the id and the answer's number */
static __u64 arguments[3];	/* descriptor, id, program_key */
static int program_fd, nr_items, slot_size;
static int flush_fd = -1;
static const char *answers;

static void read_once(void)
{
	LIBBPF_OPTS(bpf_test_run_opts, options, .ctx_in = arguments,
		    .ctx_size_in = sizeof(arguments));

	flush_by(flush_fd);
	do {
		if (bpf_prog_test_run_opts(program_fd, &options) ||
		    options.retval >= MEMCG_STATS_FAILED)
			die("run");
		memcpy(values, answers + (options.retval >> MEMCG_STATS_SEQUENCE_BITS) * slot_size,
		       (nr_items + 2) * sizeof(__u64));
	} while (values[nr_items + 1] != options.retval || values[nr_items] != arguments[1]);
}

static void print_values(void)
{
	int i;

	for (i = 0; i < nr_items; i++)
		printf("%llu ", values[i]);
	printf("\n");
}

int main(int argc, char **argv)
{
	struct loaded loaded;
	struct stat status;
	int nr_cpus;

	if (argc < 7)
		return 2;
	nr_items = atoi(argv[4]);
	slot_size = atoi(argv[5]);
	nr_cpus = atoi(argv[6]);
	loaded = load(argv[1], "memcg_run_dir", argv[2], "answers", slot_size, nr_cpus);
	program_fd = bpf_program__fd(loaded.program);
	answers = mmap(NULL, slot_size * nr_cpus, PROT_READ, MAP_SHARED, bpf_map__fd(loaded.map), 0);
	if (answers == MAP_FAILED)
		die("mmap");
	arguments[0] = open_or_die(argv[3]);
	if (fstat(arguments[0], &status))
		die(argv[3]);
	arguments[1] = status.st_ino;
	if (argc > 7)
		flush_fd = open_or_die(argv[7]);
	return serve(read_once, print_values);
}
