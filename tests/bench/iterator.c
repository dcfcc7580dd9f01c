// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * iterator OBJECT RODATA CGROUP [FLUSH_FILE]
 *
 * Does what StatsReader does with the transport "stream", without Python: it has one link, and
 * creates an iterator for each read. OBJECT is the package's BPF object, and RODATA has its
 * constants as the package set them. Where no BPF program can flush, reading FLUSH_FILE does.
 */
#include "package_object.h"
#include "memcg_stats.h"

static int link_fd;
static int flush_fd = -1;
static ssize_t stream_size; /* 0 before the first read */
static char stream[32768] __attribute__((aligned(8)));

static void read_once(void)
{
	ssize_t size;

	flush_by(flush_fd);
	/* Nothing is decoded: the stream holds the values as __u64. */
	size = read_iterator(link_fd, stream, sizeof(stream));
	if (size != stream_size && stream_size)
		die("read");
	stream_size = size;
}

static void print_values(void)
{
	const struct memcg_stats_header *header = (const void *)stream;
	const __u64 *values = (const void *)(stream + header->header_size +
					     sizeof(struct memcg_stats_row));
	int i;

	for (i = 0; i < header->nr_items; i++)
		printf("%llu ", values[i]);
	printf("\n");
}

int main(int argc, char **argv)
{
	struct loaded loaded;

	if (argc < 4)
		return 2;
	loaded = load(argv[1], "memcg_stream", argv[2], NULL, 0, 0);
	link_fd = attach(loaded.program, argv[3], BPF_CGROUP_ITER_SELF_ONLY);
	if (argc > 4)
		flush_fd = open_or_die(argv[4]);
	return serve(read_once, print_values);
}
