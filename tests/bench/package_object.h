/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Loads a BPF object as the package does: one program with its constants and its maps.
 */
#ifndef PACKAGE_OBJECT_H
#define PACKAGE_OBJECT_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bench.h"

struct loaded {
	struct bpf_program *program;
	struct bpf_map *map;
};

static inline void set_constants(struct bpf_object *object, const char *path)
{
	static char constants[65536];
	struct bpf_map *map = bpf_object__find_map_by_name(object, ".rodata");
	int fd = open_or_die(path);
	ssize_t size = read(fd, constants, sizeof(constants));

	if (!map || size < 0 || bpf_map__set_initial_value(map, constants, size))
		die("constants");
	close(fd);
}

/*
 * Loads one program, which writes no names. Of the optional maps only *map_name* is created, with
 * this many entries of this size; NULL for none.
 */
static inline struct loaded load(const char *path, const char *program_name,
				 const char *constants, const char *map_name, __u32 value_size,
				 __u32 entries)
{
	struct bpf_program *program;
	struct loaded loaded = {};
	struct bpf_object *object;
	struct bpf_map *map;

	object = bpf_object__open_file(path, NULL);
	if (!object)
		die(path);
	bpf_object__for_each_program(program, object) {
		bool wanted = !strcmp(bpf_program__name(program), program_name);

		bpf_program__set_autoload(program, wanted);
		if (wanted)
			loaded.program = program;
	}
	bpf_object__for_each_map(map, object) {
		const char *name = bpf_map__name(map);
		bool scratches = !strcmp(name, "scratches"), names = !strcmp(name, "names");

		if (bpf_map__is_internal(map))
			continue;
		if (map_name && !strcmp(name, map_name)) {
			bpf_map__set_value_size(map, value_size);
			bpf_map__set_max_entries(map, entries);
			loaded.map = map;
		} else if (!(scratches && strstr(program_name, "_run_")) && !(names && map_name)) {
			bpf_map__set_autocreate(map, false);
		}
	}
	set_constants(object, constants);
	if (!loaded.program || (map_name && !loaded.map) || bpf_object__load(object))
		die("load");
	return loaded;
}

static inline int attach(struct bpf_program *program, const char *cgroup,
			 enum bpf_cgroup_iter_order order)
{
	union bpf_iter_link_info info = {};
	LIBBPF_OPTS(bpf_iter_attach_opts, options, .link_info = &info,
		    .link_info_len = sizeof(info));
	struct bpf_link *link;

	info.cgroup.cgroup_fd = open_or_die(cgroup);
	info.cgroup.order = order;
	link = bpf_program__attach_iter(program, &options);
	if (!link)
		die("attach");
	close(info.cgroup.cgroup_fd);
	return bpf_link__fd(link);
}

/* Creates an iterator, reads its output and closes it; returns the number of bytes read. */
static inline ssize_t read_iterator(int link_fd, void *buffer, size_t room)
{
	int fd = bpf_iter_create(link_fd);
	ssize_t size;

	if (fd < 0)
		die("bpf_iter_create");
	size = read(fd, buffer, room);
	close(fd);
	if (size < 0)
		die("read");
	return size;
}

static inline void flush_by(int fd)
{
	char byte;

	if (fd >= 0 && pread(fd, &byte, 1, 0) < 0)
		die("flush");
}

#endif
