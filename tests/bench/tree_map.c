// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * tree_map share|run|walk OBJECT RODATA CGROUP NR_ITEMS ENTRIES [FLUSH_FILE]
 *
 * Does what TreeReader.read(copy=False) does, without Python: one walk fills a mapped array. The
 * rows are not looked at.
 */
#include <sys/mman.h>
#include <sys/stat.h>

#include "package_object.h"
#include "rows.h"

static struct memcg_stats_call call;
static __u64 arguments[4];	/* of memcg_walk_dir: descriptor, id, program_key, whether it goes on */
static int program_fd, link_fd, nr_items;
static void (*walk)(void);
static int flush_fd = -1;
static const char *rows;
static unsigned long nr_rows, room;
static size_t row_size;

static void walk_by_iterator(void)
{
	char stream[1024] __attribute__((aligned(8)));
	ssize_t size = read_iterator(link_fd, stream, sizeof(stream));
	struct memcg_stats_trailer trailer;

	if (size < (ssize_t)sizeof(trailer))
		die("walk");
	memcpy(&trailer, stream + size - sizeof(trailer), sizeof(trailer));
	nr_rows = trailer.nr_rows;
}

static void walk_by_run(void)
{
	LIBBPF_OPTS(bpf_test_run_opts, options, .ctx_in = &call, .ctx_size_in = sizeof(call));

	if (bpf_prog_test_run_opts(program_fd, &options) || call.status != MEMCG_STATS_DONE)
		die("walk");
	nr_rows = call.nr_rows;
}

static void walk_from_directory(void)
{
	LIBBPF_OPTS(bpf_test_run_opts, options, .ctx_in = arguments,
		    .ctx_size_in = sizeof(arguments));

	arguments[3] = 0;
	do {
		if (bpf_prog_test_run_opts(program_fd, &options) ||
		    options.retval > MEMCG_STATS_MORE)
			die("walk");
		arguments[3] = 1;
	} while (options.retval == MEMCG_STATS_MORE);
	nr_rows = options.retval;
}

static void read_once(void)
{
	flush_by(flush_fd);
	walk();
	if (!nr_rows || nr_rows > room)
		die("rows");
}

static void print_values(void)
{
	unsigned long long sums[MEMCG_STATS_MAX_ITEMS] = {};
	unsigned long i;

	for (i = 0; i < nr_rows; i++)
		add_values(sums, (const void *)(rows + i * row_size +
						sizeof(struct memcg_stats_row)), nr_items);
	print_sums(nr_rows, sums, nr_items);
}

int main(int argc, char **argv)
{
	const char *name = "memcg_share";
	struct loaded loaded;
	struct stat status;

	if (argc < 7)
		return 2;
	walk = walk_by_iterator;
	if (!strcmp(argv[1], "run")) {
		name = "memcg_run_tree";
		walk = walk_by_run;
	} else if (!strcmp(argv[1], "walk")) {
		name = "memcg_walk_dir";
		walk = walk_from_directory;
	}
	nr_items = atoi(argv[5]);
	room = atol(argv[6]);
	row_size = sizeof(struct memcg_stats_row) + nr_items * sizeof(__u64);
	loaded = load(argv[2], name, argv[3], "rows", row_size, room);
	rows = mmap(NULL, row_size * room, PROT_READ, MAP_SHARED, bpf_map__fd(loaded.map), 0);
	if (rows == MAP_FAILED || stat(argv[4], &status))
		die("map");
	call.cgroup_id = arguments[1] = status.st_ino;
	program_fd = bpf_program__fd(loaded.program);
	if (walk == walk_from_directory)
		arguments[0] = open_or_die(argv[4]);
	if (walk == walk_by_iterator)
		link_fd = attach(loaded.program, argv[4], BPF_CGROUP_ITER_DESCENDANTS_PRE);
	if (argc > 7)
		flush_fd = open_or_die(argv[7]);
	return serve(read_once, print_values);
}
