// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Memory-cgroup statistics as numbers: the entry points.
 *
 *   memcg_stats_stream    cgroup iterator; rows go out by the iterator's own output
 *   memcg_stats_share     cgroup iterator; rows go into the map
 *   memcg_stats_run_one   one call; one row goes back in the caller's buffer
 *   memcg_stats_run_tree  one call; rows go into the map
 *
 * User space loads one of them. It sets the `const volatile` variables before; what
 * they leave out, the verifier removes.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "kernel_types.h"
#include "memcg_stats.h"
#include "counters.bpf.h"
#include "rows.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Linux 6.7: kernel/bpf/helpers.c, kernel/bpf/cgroup_iter.c */
extern struct cgroup *bpf_cgroup_from_id(__u64 cgid) __ksym __weak;
extern void bpf_cgroup_release(struct cgroup *cgrp) __ksym __weak;
extern void bpf_rcu_read_lock(void) __ksym __weak;
extern void bpf_rcu_read_unlock(void) __ksym __weak;
extern int bpf_iter_css_new(struct bpf_iter_css *it, struct cgroup_subsys_state *start,
			    unsigned int flags) __ksym __weak;
extern struct cgroup_subsys_state *bpf_iter_css_next(struct bpf_iter_css *it) __ksym __weak;
extern void bpf_iter_css_destroy(struct bpf_iter_css *it) __ksym __weak;

/*
 * The iterators' scratch. All walks of this object share it, but cgroup_mutex is held around
 * every call with a cgroup, so one walk at a time is in here. The stack (512 bytes) is too small.
 */
static struct scratch walking;

static __always_inline void end_stream(struct seq_file *seq, __u32 nr_rows)
{
	struct memcg_stats_trailer trailer = {
		.magic = MEMCG_STATS_END_MAGIC,
		.nr_rows = nr_rows,
		.end_ns = bpf_ktime_get_ns(),
	};

	bpf_seq_write(seq, &trailer, sizeof(trailer));
}

SEC("iter.s/cgroup")
int memcg_stats_stream(struct bpf_iter__cgroup *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct cgroup *cgrp = ctx->cgroup;
	__u32 header_size = header.header_size;
	__u32 row_size = header.row_size;

	if (header_size > sizeof(header) || row_size > sizeof(walking.row) || !row_size)
		return 1;

	/* If not each is flushed, the first contains all others: once is enough. */
	if (cgrp && (flush_each || !seq->count))
		flush_subtree(cgrp);
	if (!seq->count)
		bpf_seq_write(seq, (void *)&header, header_size);
	if (!cgrp)
		/* Dead cgroups are skipped before us, so only the buffer knows. */
		end_stream(seq, (seq->count - header_size) / row_size);
	else if (is_in_part(cgrp) &&
		 fill_row(cgrp, &cgrp->self, walking.words, &walking.row.head))
		bpf_seq_write(seq, &walking.row, row_size);
	return 0;
}

/* One reader alone has a program of this kind, and it walks once at a time. */
SEC("iter.s/cgroup")
int memcg_stats_share(struct bpf_iter__cgroup *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct cgroup *cgrp = ctx->cgroup;
	__u32 header_size = header.header_size;

	if (header_size > sizeof(header))
		return 1;

	if (!cgrp) {
		end_stream(seq, seq->count ? walking.nr_rows : 0);
		return 0;
	}

	if (!seq->count) {
		flush_subtree(cgrp);
		walking.nr_rows = 0;
		bpf_seq_write(seq, (void *)&header, header_size);
	}
	add_row(cgrp, &cgrp->self, &walking);
	return 0;
}

struct one {
	struct memcg_stats_call call;
	struct memcg_stats_row row;
	__u64 values[MEMCG_STATS_MAX_ITEMS];
};

SEC("syscall")
int memcg_stats_run_one(struct one *one)
{
	struct scratch *scratch;
	struct cgroup *cgrp;
	__u32 i, nr_items, slot;
	bool found;

	if (one->call.program != program_key) {
		one->call.status = MEMCG_STATS_OTHER;
		return 0;
	}
	cgrp = bpf_cgroup_from_id(one->call.cgroup_id);
	if (!cgrp) {
		one->call.status = MEMCG_STATS_GONE;
		return 0;
	}
	flush_subtree(cgrp); /* sleeps, so not with a scratch in hand */

	scratch = take_scratch(&slot);
	if (!scratch) {
		one->call.status = MEMCG_STATS_BUSY;
		goto release;
	}
	bpf_rcu_read_lock();
	found = fill_row(cgrp, &cgrp->self, scratch->words, &scratch->row.head);
	bpf_rcu_read_unlock();
	one->row = scratch->row.head;
	/*
	 * The verifier wants every place in a context to be a constant. It knows nr_items, and
	 * so how large the context must be at least.
	 */
	nr_items = header.nr_items;
#pragma clang loop unroll(full)
	for (i = 0; i < MEMCG_STATS_MAX_ITEMS; i++) {
		if (i < nr_items)
			one->values[i] = scratch->row.values[i];
	}
	give_scratch(slot);
	one->call.nr_rows = found;
	one->call.status = MEMCG_STATS_DONE;
release:
	bpf_cgroup_release(cgrp);
	return 0;
}

SEC("syscall")
int memcg_stats_run_tree(struct memcg_stats_call *call)
{
	struct cgroup_subsys_state *css;
	struct scratch *scratch;
	struct bpf_iter_css it;
	struct cgroup *root;
	int err;
	__u32 order = header.order, slot;

	if (call->program != program_key) {
		call->status = MEMCG_STATS_OTHER;
		return 0;
	}
	root = bpf_cgroup_from_id(call->cgroup_id);
	if (!root) {
		call->status = MEMCG_STATS_GONE;
		return 0;
	}
	flush_subtree(root);

	scratch = take_scratch(&slot);
	if (!scratch) {
		call->status = MEMCG_STATS_BUSY;
		goto release;
	}
	scratch->nr_rows = 0;
	bpf_rcu_read_lock();
	err = bpf_iter_css_new(&it, &root->self, order == BPF_CGROUP_ITER_SELF_ONLY ?
			       BPF_CGROUP_ITER_DESCENDANTS_PRE : order);
	while ((css = bpf_iter_css_next(&it))) {
		add_row(css->cgroup, css, scratch);
		if (order == BPF_CGROUP_ITER_SELF_ONLY)
			break;
	}
	bpf_iter_css_destroy(&it);
	bpf_rcu_read_unlock();
	call->nr_rows = scratch->nr_rows;
	give_scratch(slot);
	call->status = err ? MEMCG_STATS_BAD_ORDER : MEMCG_STATS_DONE;
release:
	bpf_cgroup_release(root);
	return 0;
}
