/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Finds the cgroup whose directory the caller of the program has open, and reads kernel structures at
 * offsets that user space takes from the kernel's BTF. With CO-RE relocations libbpf would have to
 * parse all of that BTF, which takes longer than everything else.
 *
 * The program must run in the task of the caller.
 */
#ifndef OPEN_DIR_BPF_H
#define OPEN_DIR_BPF_H

const volatile struct memcg_stats_offsets offsets = {};

/* Returns the pointer at an offset in a structure. If that is NULL or cannot be read, it is NULL. */
static __always_inline void *pointer_at(void *structure, __u32 offset)
{
	void *pointer = NULL;

	bpf_probe_read_kernel(&pointer, sizeof(pointer), structure + offset);
	return pointer;
}

static __always_inline __u32 u32_at(void *structure, __u32 offset)
{
	__u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), structure + offset);
	return value;
}

static __always_inline __u64 u64_at(void *structure, __u32 offset)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), structure + offset);
	return value;
}

/*
 * Reads two words of a structure. Often the second follows the first, and one read takes less time than
 * two. Either way, the first is read first.
 */
static __always_inline void two_at(void *structure, __u32 first, __u32 second, __u64 words[2])
{
	if (second == first + sizeof(__u64)) {
		bpf_probe_read_kernel(words, 2 * sizeof(__u64), structure + first);
	} else {
		words[0] = u64_at(structure, first);
		words[1] = u64_at(structure, second);
	}
}

/* Returns the cgroup whose directory the caller has open with this descriptor, or NULL. */
static __always_inline void *cgroup_of(__u32 fd, __u64 cgroup_id)
{
	void *task = (void *)bpf_get_current_task();
	void *fdt = pointer_at(pointer_at(task, offsets.task_files), offsets.files_fdt);
	void *inode, *kn, *cgrp;
	__u64 words[2];

	two_at(fdt, offsets.fdt_max_fds, offsets.fdt_fd, words);
	if (fd >= *(__u32 *)words)
		return NULL;
	inode = pointer_at(pointer_at((void *)words[1], fd * sizeof(void *)), offsets.file_inode);
	/*
	 * The descriptor may be another file's by now, and kn anything. It is the right one if it has the
	 * cgroup's id and leads to a cgroup that leads back.
	 *
	 * Another thread may close the directory meanwhile, and kn may become another's. So the id is
	 * read after the cgroup.
	 */
	kn = pointer_at(inode, offsets.inode_private);
	two_at(kn, offsets.kn_priv, offsets.kn_id, words);
	cgrp = (void *)words[0];
	if (words[1] != cgroup_id)
		return NULL;
	return cgrp && pointer_at(cgrp, offsets.cgroup_kn) == kn ? cgrp : NULL;
}

#endif
