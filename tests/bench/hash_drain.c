// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * hash_drain OBJECT RODATA CGROUP NR_ITEMS [FLUSH_FILE]
 *
 * One walk into a hash map (hash_drain.bpf.c), which is then drained key by key, as Meta's "below"
 * (its crate cgroupfs) does it: the map has 65,536 entries, which are not preallocated. All keys
 * are read first, and then the value of each.
 */
#include "package_object.h"
#include "rows.h"

static int link_fd, map_fd, nr_items;
static int flush_fd = -1;
#define ROOM 65536

static unsigned long nr_rows;
static __u64 keys[ROOM];
static unsigned long long sums[MEMCG_STATS_MAX_ITEMS];

static void read_once(void)
{
	static struct {
		struct memcg_stats_row head;
		__u64 values[MEMCG_STATS_MAX_ITEMS];
	} row;
	char stream[8];
	unsigned long i;
	__u64 *last;

	flush_by(flush_fd);
	read_iterator(link_fd, stream, sizeof(stream));
	memset(sums, 0, nr_items * sizeof(sums[0]));
	/* As the program "below" does: all keys first, then each key's row. */
	for (nr_rows = 0, last = NULL; !bpf_map_get_next_key(map_fd, last, &keys[nr_rows]);
	     last = &keys[nr_rows++])
		if (nr_rows + 1 == ROOM)
			die("rows");
	for (i = 0; i < nr_rows; i++) {
		if (bpf_map_lookup_elem(map_fd, &keys[i], &row) ||
		    bpf_map_delete_elem(map_fd, &keys[i]))
			die("drain");
		add_values(sums, row.values, nr_items);
	}
}

static void print_values(void)
{
	print_sums(nr_rows, sums, nr_items);
}

int main(int argc, char **argv)
{
	struct loaded loaded;

	if (argc < 5)
		return 2;
	nr_items = atoi(argv[4]);
	loaded = load(argv[1], "fill_hash", argv[2], "hash",
		      sizeof(struct memcg_stats_row) + nr_items * sizeof(__u64), ROOM);
	map_fd = bpf_map__fd(loaded.map);
	link_fd = attach(loaded.program, argv[3], BPF_CGROUP_ITER_DESCENDANTS_PRE);
	if (argc > 5)
		flush_fd = open_or_die(argv[5]);
	return serve(read_once, print_values);
}
