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

#include "kernel_memory.bpf.h"

const volatile struct memcg_stats_offsets offsets = {};

/* include/uapi/linux/magic.h */
#define CGROUP_SUPER_MAGIC	0x27e0eb
#define CGROUP2_SUPER_MAGIC	0x63677270

/* Returns the cgroup whose directory the caller has open with this descriptor, or NULL. */
static __always_inline void *cgroup_of(__u32 fd, __u64 cgroup_id)
{
	void *task = (void *)bpf_get_current_task();
	void *fdt = pointer_at(pointer_at(task, offsets.task_files), offsets.files_fdt);
	void *file, *inode, *kn, *cgrp;
	__u64 magic, words[2];

	two_at(fdt, offsets.fdt_max_fds, offsets.fdt_fd, words);
	if (fd >= *(__u32 *)words)
		return NULL;
	file = pointer_at((void *)words[1], fd * sizeof(void *));
	if (!file)
		return NULL;
	/* The descriptor may be another file's by now. */
	inode = pointer_at(file, offsets.file_inode);
	magic = u64_at(pointer_at(inode, offsets.inode_sb), offsets.sb_magic);
	if (magic != CGROUP_SUPER_MAGIC && magic != CGROUP2_SUPER_MAGIC)
		return NULL;
	kn = pointer_at(inode, offsets.inode_private);
	if (!kn)
		return NULL;
	/*
	 * Another thread may close the directory meanwhile, and kn may become another's. So the id is
	 * read after the cgroup, which must lead back.
	 */
	two_at(kn, offsets.kn_priv, offsets.kn_id, words);
	cgrp = (void *)words[0];
	if (words[1] != cgroup_id)
		return NULL;
	return cgrp && pointer_at(cgrp, offsets.cgroup_kn) == kn ? cgrp : NULL;
}

#endif
