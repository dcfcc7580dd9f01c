// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Memory-cgroup statistics as numbers: the four programs.
 *
 *   memcg_stream    a cgroup iterator that writes the rows to the iterator's output
 *   memcg_share     a cgroup iterator that writes the rows into the map
 *   memcg_run_one   a syscall program that writes one row into the caller's buffer
 *   memcg_run_tree  a syscall program that writes the rows of a tree into the map
 *
 * User space loads one of them. Before, it sets the `const volatile` variables, and the verifier
 * removes the code that these make unreachable. A name has at most 15 characters, since the kernel
 * keeps no more.
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
#include "css_walk.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/*
 * The scratch of the iterators, for which the stack (512 bytes) is too small. All walks of a loaded
 * program share it. The kernel holds cgroup_mutex around every call with a cgroup, so no two of these
 * calls run at the same time.
 */
static struct scratch walking;

/* Writes the trailer, which tells the reader that the stream is complete. */
static __always_inline void end_stream(struct seq_file *seq, __u32 nr_rows)
{
	struct memcg_stats_trailer trailer = {
		.magic = MEMCG_STATS_END_MAGIC,
		.nr_rows = nr_rows,
		.end_ns = bpf_ktime_get_ns(),
	};

	bpf_seq_write(seq, &trailer, sizeof(trailer));
}

/*
 * The kernel calls it for each cgroup of the walk, and in the end with cgroup == NULL. It writes the
 * header, a row for each cgroup that has memory.stat, and the trailer. Several walks may use one
 * loaded program at the same time.
 */
SEC("iter.s/cgroup")
int memcg_stream(struct bpf_iter__cgroup *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct cgroup *cgrp = ctx->cgroup;
	__u32 header_size = header.header_size;
	__u32 row_size = header.row_size;

	if (header_size > sizeof(header) || row_size > sizeof(walking.row) || !row_size)
		return 1;

	/* The first cgroup contains all others, so one flush is enough unless flush_each is set. */
	if (cgrp && (flush_each || !seq->count))
		flush_subtree(cgrp);
	if (!seq->count)
		bpf_seq_write(seq, (void *)&header, header_size);
	if (!cgrp)
		/*
		 * The kernel skips dead cgroups, so the number of calls does not tell the number of
		 * rows, but the size of the output does.
		 */
		end_stream(seq, (seq->count - header_size) / row_size);
	else if (fill_row(cgrp, &cgrp->self, walking.words, &walking.row.head))
		bpf_seq_write(seq, &walking.row, row_size);
	return 0;
}

/*
 * Like memcg_stream, but the rows go into the map, and only the header and the trailer into the
 * iterator's output. The trailer says how many rows there were, whether or not they fitted into the
 * map. Each loaded program of this kind belongs to one reader, which runs one walk at a time.
 */
SEC("iter.s/cgroup")
int memcg_share(struct bpf_iter__cgroup *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct cgroup *cgrp = ctx->cgroup;
	__u32 header_size = header.header_size;

	if (header_size > sizeof(header))
		return 1;

	if (!cgrp) {
		if (seq->count)
			end_names(&walking.names);
		end_stream(seq, seq->count ? walking.nr_rows : 0);
		return 0;
	}

	if (!seq->count) {
		flush_subtree(cgrp);
		walking.nr_rows = 0;
		begin_names_at(cgrp->self.cgroup, &walking.names);
		bpf_seq_write(seq, (void *)&header, header_size);
	}
	add_row(cgrp, &cgrp->self, &walking);
	return 0;
}

/* The context of memcg_run_one. It may be shorter: only nr_items values are written. */
struct run_one_ctx {
	struct memcg_stats_call call;
	struct memcg_stats_row row;
	__u64 values[MEMCG_STATS_MAX_ITEMS];
};

/*
 * Reads the cgroup whose id is in the call, and writes its row and its values into the context. It
 * always returns 0; the result is call.status. If that is MEMCG_STATS_DONE, call.nr_rows is 1, or 0 if
 * the cgroup has no memory.stat. Any number of calls may run at the same time.
 */
SEC("syscall")
int memcg_run_one(struct run_one_ctx *ctx)
{
	struct scratch *scratch;
	struct cgroup *cgrp;
	__u32 i, nr_items, slot;
	bool found;

	if (ctx->call.program != program_key) {
		ctx->call.status = MEMCG_STATS_OTHER;
		return 0;
	}
	cgrp = bpf_cgroup_from_id(ctx->call.cgroup_id);
	if (!cgrp) {
		ctx->call.status = MEMCG_STATS_GONE;
		return 0;
	}
	flush_subtree(cgrp);	/* It may sleep, so it comes before a scratch is taken. */

	scratch = take_scratch(&slot);
	if (!scratch) {
		ctx->call.status = MEMCG_STATS_BUSY;
		goto release;
	}
	bpf_rcu_read_lock();
	found = fill_row(cgrp, &cgrp->self, scratch->words, &scratch->row.head);
	bpf_rcu_read_unlock();
	ctx->row = scratch->row.head;
	/*
	 * The verifier requires that every offset in a context is constant, so the loop is unrolled.
	 * It knows nr_items, and derives from it how large the context must be at least.
	 */
	nr_items = header.nr_items;
#pragma clang loop unroll(full)
	for (i = 0; i < MEMCG_STATS_MAX_ITEMS; i++) {
		if (i < nr_items)
			ctx->values[i] = scratch->row.values[i];
	}
	give_scratch(slot);
	ctx->call.nr_rows = found;
	ctx->call.status = MEMCG_STATS_DONE;
release:
	bpf_cgroup_release(cgrp);
	return 0;
}

/*
 * Walks the tree below the cgroup whose id is in the call, and writes its rows into the map. It always
 * returns 0; the result is call.status. If that is MEMCG_STATS_DONE, call.nr_rows is the number of
 * rows, whether or not they fitted into the map. Each loaded program of this kind belongs to one
 * reader, which makes one call at a time.
 */
SEC("syscall")
int memcg_run_tree(struct memcg_stats_call *call)
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
	begin_names_at(root->self.cgroup, &scratch->names);
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
	end_names(&scratch->names);
	call->nr_rows = scratch->nr_rows;
	give_scratch(slot);
	call->status = err ? MEMCG_STATS_BAD_ORDER : MEMCG_STATS_DONE;
release:
	bpf_cgroup_release(root);
	return 0;
}
