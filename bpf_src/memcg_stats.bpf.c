// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * A cgroup iterator that writes memory-cgroup statistics as numbers.
 *
 * User space sets the `const volatile` variables before load; what they leave
 * out, the verifier removes.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "kernel_types.h"
#include "memcg_stats.h"
#include "counters.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct memcg_stats_header header = {};

/*
 * Shared by all walks of this object, but cgroup_mutex is held around every call
 * with a cgroup, so one walk at a time is in here. The stack (512 bytes) is too small.
 */
static __u64 vmstats[VMSTATS_MAX];
static struct {
	struct memcg_stats_row head;
	__u64 values[MEMCG_STATS_MAX_ITEMS];
} row;

SEC("iter.s/cgroup")
int memcg_stats_walk(struct bpf_iter__cgroup *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct cgroup *cgrp = ctx->cgroup;
	__u32 header_size = header.header_size;
	__u32 row_size = header.row_size;

	if (header_size > sizeof(header) || row_size > sizeof(row) || !row_size)
		return 1;

	if (!cgrp) {
		struct memcg_stats_trailer trailer = {
			.magic = MEMCG_STATS_END_MAGIC,
			.end_ns = bpf_ktime_get_ns(),
		};

		/* Dead cgroups are skipped before us, so only the buffer knows. */
		if (seq->count > header_size)
			trailer.nr_rows = (seq->count - header_size) / row_size;
		bpf_seq_write(seq, &trailer, sizeof(trailer));
		return 0;
	}

	if (!seq->count) {
		/* The walk's first cgroup contains the others: once is enough. */
		flush_subtree(cgrp);
		bpf_seq_write(seq, (void *)&header, header_size);
	}

	if (!read_counters(cgrp, vmstats, row.values))
		return 0;

	row.head.cgroup_id = cgrp->kn->id;
	row.head.level = cgrp->level;
	row.head.flags = 0;
	row.head.parent_id = 0;
	if (cgrp->level > 0)
		row.head.parent_id = cgrp->self.parent->cgroup->kn->id;
	else
		row.head.flags = MEMCG_STATS_ROW_ROOT;
	bpf_seq_write(seq, &row, row_size);
	return 0;
}

/*
 * Linux 6.10 on keeps only some counters; which one lies where is told by two
 * static tables. User space looks up their addresses and runs this once.
 */
const volatile __u64 stats_index_address = 0;
const volatile __u64 events_index_address = 0;

#define INDEX_TABLE_MAX 1024

__u8 stats_index[INDEX_TABLE_MAX];
__u8 events_index[INDEX_TABLE_MAX];
const volatile __u32 stats_index_size = 0;
const volatile __u32 events_index_size = 0;

SEC("syscall")
int copy_index_tables(void *ctx)
{
	long err = 0;

	if (stats_index_size > sizeof(stats_index) || events_index_size > sizeof(events_index))
		return 1;
	if (stats_index_address)
		err = bpf_probe_read_kernel(stats_index, stats_index_size,
					    (void *)stats_index_address);
	if (!err && events_index_address)
		err = bpf_probe_read_kernel(events_index, events_index_size,
					    (void *)events_index_address);
	return err ? 1 : 0;
}
