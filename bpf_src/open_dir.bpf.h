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

/* include/uapi/linux/magic.h */
#define CGROUP_SUPER_MAGIC	0x27e0eb
#define CGROUP2_SUPER_MAGIC	0x63677270

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

/* Returns the cgroup whose directory the caller has open with this descriptor, or NULL. */
static __always_inline void *cgroup_of(__u32 fd, __u64 cgroup_id)
{
	void *task = (void *)bpf_get_current_task();
	void *fdt = pointer_at(pointer_at(task, offsets.task_files), offsets.files_fdt);
	void *inode, *kn, *cgrp;
	__u64 magic;

	if (fd >= u32_at(fdt, offsets.fdt_max_fds))
		return NULL;
	inode = pointer_at(pointer_at(pointer_at(fdt, offsets.fdt_fd), fd * sizeof(void *)),
			   offsets.file_inode);
	magic = u64_at(pointer_at(inode, offsets.inode_sb), offsets.sb_magic);
	if (magic != CGROUP_SUPER_MAGIC && magic != CGROUP2_SUPER_MAGIC)
		return NULL;
	kn = pointer_at(inode, offsets.inode_private);
	cgrp = pointer_at(kn, offsets.kn_priv);
	/*
	 * Another thread may close the directory meanwhile, and kn may become another's. So the id is
	 * looked at after the cgroup was found.
	 */
	if (u64_at(kn, offsets.kn_id) != cgroup_id)
		return NULL;
	return cgrp && pointer_at(cgrp, offsets.cgroup_kn) == kn ? cgrp : NULL;
}

#endif
