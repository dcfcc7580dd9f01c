// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * iterator OBJECT RODATA CGROUP [FLUSH_FILE]
 *
 * What StatsReader does, without Python: one link, and per read a new iterator.
 * OBJECT is the package's own, RODATA its constants as the package has set them.
 * Where the kernel lets no BPF program flush, reading FLUSH_FILE does.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bench.h"
#include "memcg_stats.h"

static int link_fd;
static int flush_fd = -1;
static ssize_t stream_size; /* known from the first read on */
static char stream[32768] __attribute__((aligned(8)));

static void read_once(void)
{
	char byte;
	ssize_t size;
	int fd;

	if (flush_fd >= 0 && pread(flush_fd, &byte, 1, 0) < 0)
		die("flush");
	fd = bpf_iter_create(link_fd);
	if (fd < 0)
		die("bpf_iter_create");
	/* Nothing to decode: the values are in there as __u64. */
	size = read(fd, stream, sizeof(stream));
	close(fd);
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

static void set_constants(struct bpf_object *object, const char *path)
{
	struct bpf_map *map = bpf_object__find_map_by_name(object, ".rodata");
	int fd = open_or_die(path);
	ssize_t size = read(fd, stream, sizeof(stream));

	if (!map || size < 0 || bpf_map__set_initial_value(map, stream, size))
		die("constants");
	close(fd);
}

static void attach(const char *object_path, const char *constants, const char *cgroup)
{
	union bpf_iter_link_info info = {};
	LIBBPF_OPTS(bpf_iter_attach_opts, options, .link_info = &info,
		    .link_info_len = sizeof(info));
	struct bpf_program *program, *walk = NULL;
	struct bpf_object *object;
	struct bpf_link *link;

	object = bpf_object__open_file(object_path, NULL);
	if (!object)
		die(object_path);
	bpf_object__for_each_program(program, object) {
		bool wanted = !strcmp(bpf_program__name(program), "memcg_stats_walk");

		bpf_program__set_autoload(program, wanted);
		if (wanted)
			walk = program;
	}
	set_constants(object, constants);
	if (bpf_object__load(object))
		die("load");

	info.cgroup.cgroup_fd = open_or_die(cgroup);
	info.cgroup.order = BPF_CGROUP_ITER_SELF_ONLY;
	link = bpf_program__attach_iter(walk, &options);
	if (!link)
		die("attach");
	link_fd = bpf_link__fd(link);
	close(info.cgroup.cgroup_fd);
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	attach(argv[1], argv[2], argv[3]);
	if (argc > 4)
		flush_fd = open_or_die(argv[4]);
	return serve(read_once, print_values);
}
