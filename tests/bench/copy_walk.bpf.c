// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * The floor of a walk that reads all items: a cgroup iterator copies the kernel's state[] and events[]
 * of each cgroup whole, by two reads, into a mapped array. It computes nothing, and shares nothing with
 * the package but struct bpf_iter__cgroup.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "kernel_types.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct array {
	__u32 offset;
	__u32 size;
};

/* Offsets from the kernel's BTF, which user space sets before load. */
const volatile struct {
	__u32 memory;		/* in struct cgroup: its css of the memory controller */
	__u32 vmstats;		/* in struct mem_cgroup: the pointer to the counters */
	struct array state;
	struct array events;
} places = {};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u64));
} copies SEC(".maps");

static __u32 nr_copies;

SEC("iter/cgroup")
int copy_counters(struct bpf_iter__cgroup *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	void *memcg = NULL, *vmstats = NULL, *copy;
	struct cgroup *cgrp = ctx->cgroup;
	char first = 0;
	__u32 index;

	if (!cgrp) {
		bpf_seq_write(seq, &nr_copies, sizeof(nr_copies));
		return 0;
	}
	if (!seq->count) {
		nr_copies = 0;
		bpf_seq_write(seq, &first, sizeof(first));
	}
	index = nr_copies;
	copy = bpf_map_lookup_elem(&copies, &index);
	bpf_probe_read_kernel(&memcg, sizeof(memcg), (void *)cgrp + places.memory);
	if (!copy || !memcg)
		return 0;
	/* The css is the first member of struct mem_cgroup. */
	bpf_probe_read_kernel(&vmstats, sizeof(vmstats), memcg + places.vmstats);
	*(__u64 *)copy = cgrp->kn->id;
	copy += sizeof(__u64);
	bpf_probe_read_kernel(copy, places.state.size, vmstats + places.state.offset);
	copy += places.state.size;
	bpf_probe_read_kernel(copy, places.events.size, vmstats + places.events.offset);
	nr_copies = index + 1;
	return 0;
}
