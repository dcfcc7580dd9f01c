// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Writes down each cgroup that is removed below one cgroup, on cgroup v1 and v2, from Linux 6.1 on.
 *
 * It is attached to the raw tracepoint cgroup_rmdir, which is within rmdir(2), when the removal has
 * succeeded. The kernel holds cgroup_mutex and a spinlock then, so no two of these calls run at the same
 * time, and the records are in the order of the removals.
 *
 * The cgroup's counters are all there, but updates of them may be pending: see counter_sums.bpf.h.
 *
 * All offsets are constants that user space takes from the kernel's BTF.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>

#include "departures.h"
#include "item_code.bpf.h"
#include "kernel_memory.bpf.h"
#include "cgroup_names.bpf.h"

const volatile struct memcg_departed_offsets offsets = {};

#include "counter_sums.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u8 control_bit = 0;	/* of the memory controller, in the byte cgroup_control */
const volatile __u64 root_id = 0;	/* cgroups below the one with this id are written down */
const volatile __u32 max_depth = ~0U;	/* those further down are not */
const volatile __u32 nr_items = 0;

/* The records. User space sets its size before load, maps it, and says how far it has read. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} departures SEC(".maps");

/* How many records had no room. User space maps it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u64));
} nr_lost SEC(".maps");

#define LEVELS_AT_ONCE 32
#define HEAD_SIZE (sizeof(struct memcg_departed_head) + sizeof(struct memcg_stats_row))

/* The one call that runs. */
static struct {
	void *above;		/* a cgroup on the way up */
	__u32 depth;		/* below the root */
	__u64 words[MEMCG_STATS_MAX_WORDS];
	/* The record: its head, its row, its values, and its names. */
	__u64 record[(HEAD_SIZE + MEMCG_DEPARTED_TEXT_SIZE + MEMCG_STATS_NAME_SIZE) / sizeof(__u64) +
		     MEMCG_STATS_MAX_ITEMS];
} departing;

static __always_inline void *parent_of(void *cgrp)
{
	void *css = pointer_at(cgrp, offsets.cgroup_self + offsets.css_parent);

	return css ? css - offsets.cgroup_self : NULL;
}

static __always_inline __u64 id_of(void *cgrp)
{
	return u64_at(pointer_at(cgrp, offsets.cgroup_kn), offsets.kn_id);
}

/* Whether the root of the walk is above a cgroup. */
enum way {
	UNKNOWN,
	BELOW,
	ELSEWHERE,
};

/* Goes up one level from departing.above, and counts it in departing.depth. */
__noinline __u64 go_up(void)
{
	void *above = parent_of(departing.above);

	departing.depth++;
	if (!above || departing.depth > max_depth)
		return ELSEWHERE;
	departing.above = above;
	return id_of(above) == root_id ? BELOW : UNKNOWN;
}

__noinline __u64 go_further_up(void)
{
	__u64 found = UNKNOWN;
	__u32 i;

	for (i = 0; i < LEVELS_AT_ONCE && !found; i++)
		found = go_up();
	return found;
}

/* Returns where a cgroup is. departing.depth is how many levels it is below the root. */
static __always_inline __u64 way_from(void *cgrp)
{
	__u64 found = UNKNOWN;
	__u32 i;

	departing.above = cgrp;
	departing.depth = 0;
	for (i = 0; i < MEMCG_DEPARTED_MAX_DEPTH / LEVELS_AT_ONCE && !found; i++)
		found = go_further_up();
	return found;
}

/* Whether the cgroup had a memory.stat. The kernel has taken away its files by now. */
static __always_inline bool had_memory(void *cgrp)
{
	void *parent = parent_of(cgrp);
	__u8 control = 0;

	bpf_probe_read_kernel(&control, sizeof(control), parent + offsets.cgroup_control);
	return control & control_bit;
}

static __always_inline struct memcg_departed_head *head_of_record(void)
{
	return (void *)departing.record;
}

/* Writes the name of departing.above, and goes up. Returns whether there may be another to write. */
__noinline __u64 add_name(void)
{
	struct memcg_departed_head *head = head_of_record();
	__u32 at = head->text_size, values = nr_items;
	void *kn;
	long length;

	if (at > MEMCG_DEPARTED_TEXT_SIZE || values > MEMCG_STATS_MAX_ITEMS)
		return false;
	kn = pointer_at(departing.above, offsets.cgroup_kn);
	length = copy_name((char *)departing.record + HEAD_SIZE + values * sizeof(__u64) + at,
			   kn + offsets.kn_name);
	if (!length)
		return false;
	head->text_size = at + length;
	head->nr_names++;
	departing.above = parent_of(departing.above);
	return head->nr_names < departing.depth;
}

/* Writes some names. */
__noinline __u64 add_names(void)
{
	__u32 i;

	for (i = 0; i < LEVELS_AT_ONCE; i++)
		if (!add_name())
			return false;
	return true;
}

static __always_inline void count_lost(void)
{
	__u32 zero = 0;
	__u64 *lost = bpf_map_lookup_elem(&nr_lost, &zero);

	if (lost)
		*(volatile __u64 *)lost += 1;
}

SEC("raw_tp")
int memcg_departed(struct bpf_raw_tracepoint_args *ctx)
{
	struct memcg_departed_head *head = head_of_record();
	struct memcg_stats_row *row = (void *)(head + 1);
	void *cgrp = (void *)ctx->args[0];
	__u32 values = nr_items, size, i;
	enum sums sums;
	void *css;
	__u64 way;

	css = pointer_at(cgrp, offsets.cgroup_memory);
	if (!css || values > MEMCG_STATS_MAX_ITEMS || !had_memory(cgrp))
		return 0;
	way = way_from(cgrp);
	if (way == UNKNOWN)	/* It is too deep. */
		count_lost();
	if (way != BELOW)
		return 0;
	head->removed_ns = bpf_ktime_get_ns();
	row->cgroup_id = id_of(cgrp);
	row->parent_id = id_of(parent_of(cgrp));
	row->level = u32_at(cgrp, offsets.cgroup_level);
	row->flags = 0;

	head->flags = 0;
	if (nr_counters) {
		sums = sum_counters(css, departing.words);
		if (sums == UNREADABLE) {
			count_lost();
			return 0;
		}
		if (sums == MOVING)
			head->flags = MEMCG_DEPARTED_UNSETTLED;
	}
	fill_values(css - offsets.memcg_css, cgrp, departing.words, (__u64 *)(row + 1), values, 0);

	head->depth = departing.depth;
	head->nr_names = 0;
	head->text_size = 0;
	departing.above = cgrp;
	for (i = 0; i < MEMCG_DEPARTED_MAX_DEPTH / LEVELS_AT_ONCE; i++)
		if (!add_names())
			break;
	size = head->text_size;
	if (size > MEMCG_DEPARTED_TEXT_SIZE + MEMCG_STATS_NAME_SIZE) {
		count_lost();
		return 0;
	}
	size += HEAD_SIZE + values * sizeof(__u64);
	if (bpf_ringbuf_output(&departures, departing.record, size, BPF_RB_NO_WAKEUP))
		count_lost();
	return 0;
}

COMPUTE_ITEMS
