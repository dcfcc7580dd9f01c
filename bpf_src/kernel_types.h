/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The few kernel types that the programs read. libbpf looks up the offset of each member in the
 * running kernel (CO-RE), so only names and types matter here.
 */
#ifndef KERNEL_TYPES_H
#define KERNEL_TYPES_H

/* Only that they are enums matters: libbpf compares a kfunc's prototype with the kernel's. */
enum node_stat_item { NODE_STAT_ITEM_ };
enum memcg_stat_item { MEMCG_STAT_ITEM_ };
enum vm_event_item { VM_EVENT_ITEM_ };
enum memcg_memory_event { MEMCG_MEMORY_EVENT_ };

/* This is user-space ABI. Its layout is fixed, so it needs no relocations. */
struct bpf_iter_meta;
struct cgroup;

struct bpf_iter__cgroup {
	union {
		struct bpf_iter_meta *meta;
		__u64 : 64;
	} __attribute__((aligned(8)));
	union {
		struct cgroup *cgroup;
		__u64 : 64;
	} __attribute__((aligned(8)));
};

/* It is opaque and on the program's stack. The kernel's has the same name and size. */
struct bpf_iter_css {
	__u64 __opaque[3];
} __attribute__((aligned(8)));

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct seq_file {
	unsigned long count;
};

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct kernfs_node {
	const char *name;
	unsigned int hash;
	__u64 id;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	unsigned int flags;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	int level;
	struct kernfs_node *kn;
	struct cgroup_subsys_state *subsys[1];
};

struct mem_cgroup {
	struct cgroup_subsys_state css;
};

#pragma clang attribute pop

#endif
