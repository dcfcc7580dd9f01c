// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * copy_walk OBJECT RODATA CGROUP ROW_SIZE ENTRIES [FLUSH_FILE]
 *
 * One walk that copies each cgroup's counters into a mapped array (copy_walk.bpf.c). The array is not
 * looked at.
 */
#include <sys/mman.h>

#include "package_object.h"

static int link_fd;
static int flush_fd = -1;
static __u32 nr_rows;

static void read_once(void)
{
	struct {
		char first;
		__u32 nr_rows;
	} __attribute__((packed)) stream;

	flush_by(flush_fd);
	if (read_iterator(link_fd, &stream, sizeof(stream)) != sizeof(stream) || !stream.nr_rows)
		die("walk");
	nr_rows = stream.nr_rows;
}

static void print_values(void)
{
	printf("%u\n", nr_rows);
}

int main(int argc, char **argv)
{
	struct loaded loaded;
	size_t row_size;
	long room;

	if (argc < 6)
		return 2;
	row_size = atoi(argv[4]);
	room = atol(argv[5]);
	loaded = load(argv[1], "copy_counters", argv[2], "copies", row_size, room);
	if (mmap(NULL, row_size * room, PROT_READ, MAP_SHARED, bpf_map__fd(loaded.map), 0) ==
	    MAP_FAILED)
		die("mmap");
	link_fd = attach(loaded.program, argv[3], BPF_CGROUP_ITER_DESCENDANTS_PRE);
	if (argc > 6)
		flush_fd = open_or_die(argv[6]);
	return serve(read_once, print_values);
}
