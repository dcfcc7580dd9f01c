// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * hash_drain OBJECT RODATA CGROUP NR_ITEMS ENTRIES [FLUSH_FILE]
 *
 * One walk into a hash map (hash_drain.bpf.c), which is then drained key by key.
 */
#include "package_object.h"
#include "rows.h"

static int link_fd, map_fd, nr_items;
static int flush_fd = -1;
static unsigned long nr_rows;
static unsigned long long sums[MEMCG_STATS_MAX_ITEMS];

static void read_once(void)
{
	static struct {
		struct memcg_stats_row head;
		__u64 values[MEMCG_STATS_MAX_ITEMS];
	} row;
	char stream[8];
	__u64 key, next;
	int end;

	flush_by(flush_fd);
	read_iterator(link_fd, stream, sizeof(stream));
	nr_rows = 0;
	memset(sums, 0, nr_items * sizeof(sums[0]));
	for (end = bpf_map_get_next_key(map_fd, NULL, &key); !end; key = next) {
		if (bpf_map_lookup_elem(map_fd, &key, &row))
			die("lookup");
		add_values(sums, row.values, nr_items);
		nr_rows++;
		/* Before its key goes: without it the kernel would begin anew. */
		end = bpf_map_get_next_key(map_fd, &key, &next);
		if (bpf_map_delete_elem(map_fd, &key))
			die("delete");
	}
}

static void print_values(void)
{
	print_sums(nr_rows, sums, nr_items);
}

int main(int argc, char **argv)
{
	struct loaded loaded;

	if (argc < 6)
		return 2;
	nr_items = atoi(argv[4]);
	loaded = load(argv[1], "fill_hash", argv[2], "hash",
		      sizeof(struct memcg_stats_row) + nr_items * sizeof(__u64), atol(argv[5]));
	map_fd = bpf_map__fd(loaded.map);
	link_fd = attach(loaded.program, argv[3], BPF_CGROUP_ITER_DESCENDANTS_PRE);
	if (argc > 6)
		flush_fd = open_or_die(argv[6]);
	return serve(read_once, print_values);
}
