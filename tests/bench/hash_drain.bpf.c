// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * An alternative to the package's mapped array: an iterator puts the rows of a tree into a hash
 * map. The package's own functions compute the rows.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "kernel_types.h"
#include "memcg_stats.h"
#include "items.bpf.h"
#include "counters.bpf.h"
#include "names.bpf.h"
#include "rows.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u64));
	__uint(value_size, sizeof(struct memcg_stats_row) + sizeof(__u64));
} hash SEC(".maps");

static struct scratch walking;

SEC("iter.s/cgroup")
int fill_hash(struct bpf_iter__cgroup *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct cgroup *cgrp = ctx->cgroup;
	char first = 0;

	if (!cgrp)
		return 0;
	if (!seq->count) {
		flush_subtree(cgrp);
		bpf_seq_write(seq, &first, sizeof(first));
	}
	if (fill_row(cgrp, &cgrp->self, walking.words, &walking.row.head))
		bpf_map_update_elem(&hash, &walking.row.head.cgroup_id, &walking.row, BPF_ANY);
	return 0;
}
