// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Reads one cgroup in one call, on cgroup v1 and v2, from Linux 5.10 on.
 *
 * It is a raw tracepoint's program that is never attached: bpf(BPF_PROG_RUN) runs it in the task of
 * the caller, under rcu_read_lock() and with preemption disabled. It finds the cgroup by the caller's
 * open directory, and holds no reference to it.
 *
 * All offsets are constants that user space takes from the kernel's BTF. With CO-RE relocations
 * libbpf would have to parse all of that BTF, which takes longer than everything else.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>

#include "memcg_stats.h"
#include "item_code.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct memcg_stats_offsets offsets = {};
const volatile __u64 program_key = 0;	/* callers must know it */
const volatile __u32 nr_items = 0;

/* include/uapi/linux/magic.h */
#define CGROUP_SUPER_MAGIC	0x27e0eb
#define CGROUP2_SUPER_MAGIC	0x63677270

/*
 * A slot for each CPU: nr_items values, the tag, and the words of the blocks. User space maps them. It
 * sets their size and number before load.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, 2 * sizeof(__u64));
} answers SEC(".maps");

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

SEC("raw_tp")
int memcg_run_dir(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 fd = ctx->args[0], cpu = bpf_get_smp_processor_id(), nr_values = nr_items;
	__u64 cgroup_id = ctx->args[1], on_root, tag, *slot;
	void *cgrp, *css;

	if (ctx->args[2] != program_key)
		return MEMCG_STATS_FAILED | MEMCG_STATS_OTHER;
	cgrp = cgroup_of(fd, cgroup_id);
	if (!cgrp)
		return MEMCG_STATS_FAILED | MEMCG_STATS_NOT_OPEN;
	css = pointer_at(cgrp, offsets.cgroup_memory);
	if (!css || !(u32_at(css, offsets.css_flags) & CSS_VISIBLE))
		return MEMCG_STATS_FAILED | MEMCG_STATS_NOT_VISIBLE;
	slot = bpf_map_lookup_elem(&answers, &cpu);
	if (!slot || nr_values > MEMCG_STATS_MAX_ITEMS)
		return MEMCG_STATS_FAILED | MEMCG_STATS_NO_SLOT;

	tag = (slot[nr_values] + 1) & ((1U << MEMCG_STATS_TAG_BITS) - 1);
	*(volatile __u64 *)&slot[nr_values] = cgroup_id << MEMCG_STATS_TAG_BITS | tag;
	barrier();
	on_root = mask_zero(u32_at(cgrp, offsets.cgroup_level));
	fill_values(css - offsets.memcg_css, cgrp, slot + nr_values + 1, slot, nr_values, on_root);
	return cpu << MEMCG_STATS_TAG_BITS | tag;
}

COMPUTE_ITEMS
