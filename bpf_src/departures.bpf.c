// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Writes down each cgroup that is removed below one cgroup, on cgroup v1 and v2, from Linux 6.1 on.
 *
 * It is attached to the raw tracepoint cgroup_rmdir, which is within rmdir(2), when the removal has
 * succeeded. The kernel holds cgroup_mutex and a spinlock then, so no two of these calls run at the same
 * time, and the records are in the order of the removals.
 *
 * The cgroup's counters are all there, but updates of them may be pending, each with the CPU that made it.
 * A flush may sleep, which this program must not. So it adds up what the CPUs have.
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

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct memcg_departed_offsets offsets = {};
const volatile __u8 control_bit = 0;	/* of the memory controller, in the byte cgroup_control */
const volatile __u64 root_id = 0;	/* cgroups below the one with this id are written down */
const volatile __u32 max_depth = ~0U;	/* those further down are not */
const volatile __u32 nr_items = 0;
const volatile __u32 nr_counters = 0;	/* of which updates may be pending */
const volatile struct memcg_departed_counter counters[MEMCG_DEPARTED_MAX_COUNTERS] = {};
/* What is copied of struct memcg_vmstats, and of each CPU's struct memcg_vmstats_percpu. */
const volatile struct memcg_departed_part flushed_part = {}, own_part = {};
const volatile __u32 nr_cpus = 0;	/* one more than the highest number of a CPU */
const volatile __u64 possible_cpus[MEMCG_DEPARTED_CPU_WORDS] = {};	/* a bit for each */

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

/* It has nothing of use. Its addresses tell how far the memory of each CPU is from that of the kernel. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u64));
} anchors SEC(".maps");

#define MAX_PART 4096	/* bytes of a structure that are copied at once; a power of 2 */
#define LEVELS_AT_ONCE 32
#define CPUS_AT_ONCE 64
#define MAX_ATTEMPTS 4
#define HEAD_SIZE (sizeof(struct memcg_departed_head) + sizeof(struct memcg_stats_row))

/* The one call that runs. */
static struct {
	void *above;		/* a cgroup on the way up */
	void *memcg;
	__u64 memory;		/* the address of what cannot be a pointer here */
	__u32 depth;		/* below the root */
	__u32 result;		/* enum result */
	__u64 words[MEMCG_STATS_MAX_WORDS];
	__u64 part[MAX_PART / sizeof(__u64)];	/* of a structure */
	__u64 own;		/* the address of each CPU's counters, less that of its anchor */
	/* Of each counter: */
	__u64 flushed[MEMCG_DEPARTED_MAX_COUNTERS];
	__u64 begun[MEMCG_DEPARTED_MAX_COUNTERS];	/* what was flushed in the beginning */
	__u64 sums[MEMCG_DEPARTED_MAX_COUNTERS];
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

/*
 * Keeps the address of the anchors' own struct bpf_map as a number, which the verifier does not let
 * programs compute with otherwise.
 */
static __always_inline void *percpu_memory_of_anchors(void)
{
	*(volatile __u64 *)&departing.memory = (__u64)&anchors;
	return pointer_at((void *)*(volatile __u64 *)&departing.memory, offsets.array_pptrs);
}

/*
 * Without casts, a part of a structure is copied at once, and its words are taken from the copy. Returns
 * false if it cannot be read.
 */
static __always_inline bool copy_structure(void *from, const volatile struct memcg_departed_part *part,
					   __u64 *to)
{
	__u32 size = part->size;

	if (word_type)
		return true;
	return size <= MAX_PART && !bpf_probe_read_kernel(to, size, from + part->offset);
}

static __always_inline __u64 word_of(void *structure, __u32 offset,
				     const volatile struct memcg_departed_part *part, const __u64 *copy)
{
	if (word_type)
		return u64_at(structure, offset);
	return *(__u64 *)((void *)copy + ((offset - part->offset) & (MAX_PART - sizeof(__u64))));
}

/* Adds what one CPU has counted since the last flush. Returns false if it cannot be read. */
__noinline __u64 add_cpu(__u32 cpu)
{
	__u32 zero = 0, i;
	void *anchor, *own;

	anchor = bpf_map_lookup_percpu_elem(&anchors, &zero, cpu);
	if (!anchor)
		return false;
	*(volatile __u64 *)&departing.memory = (__u64)anchor;
	own = (void *)departing.own + *(volatile __u64 *)&departing.memory;
	if (!copy_structure(own, &own_part, departing.part))
		return false;
	for (i = 0; i < MEMCG_DEPARTED_MAX_COUNTERS && i < nr_counters; i++)
		departing.sums[i] += word_of(own, counters[i].now, &own_part, departing.part) -
				     word_of(own, counters[i].before, &own_part, departing.part);
	return true;
}

/* The same of some CPUs. */
__noinline __u64 add_cpus(__u32 first)
{
	__u32 cpu, i;

	for (i = 0; i < CPUS_AT_ONCE; i++) {
		cpu = first + i;
		if (cpu >= nr_cpus || cpu >= 64 * MEMCG_DEPARTED_CPU_WORDS)
			break;
		if (possible_cpus[cpu / 64] >> (cpu % 64) & 1 && !add_cpu(cpu))
			return false;
	}
	return true;
}

/* Sums what is flushed of each counter and what children have added since. Returns false if it cannot. */
__noinline __u64 sum_flushed(void)
{
	void *vmstats = pointer_at(departing.memcg, offsets.memcg_vmstats);
	__u32 i;

	if (!copy_structure(vmstats, &flushed_part, departing.part))
		return false;
	for (i = 0; i < MEMCG_DEPARTED_MAX_COUNTERS && i < nr_counters; i++)
		departing.flushed[i] =
			word_of(vmstats, counters[i].flushed, &flushed_part, departing.part) +
			word_of(vmstats, counters[i].pending, &flushed_part, departing.part);
	return true;
}

__noinline __u64 begin_sums(void)
{
	__u32 i;

	for (i = 0; i < MEMCG_DEPARTED_MAX_COUNTERS && i < nr_counters; i++)
		departing.sums[i] = departing.begun[i] = departing.flushed[i];
	return 0;
}

/* Puts the sums to their places. Returns whether nothing was flushed meanwhile. */
__noinline __u64 end_sums(void)
{
	__u64 difference = 0;
	__u32 i;

	for (i = 0; i < MEMCG_DEPARTED_MAX_COUNTERS && i < nr_counters; i++) {
		difference |= departing.begun[i] ^ departing.flushed[i];
		departing.words[counters[i].word & (MEMCG_STATS_MAX_WORDS - 1)] = departing.sums[i];
	}
	return !difference;
}

/* What came of adding up the counters. */
enum result {
	SUMMED,
	FLUSHED,	/* Another CPU has flushed some, from the CPUs to those that are flushed. */
	UNREADABLE,
};

__noinline __u64 sum_counters(void)
{
	__u32 i;

	if (!sum_flushed())
		return UNREADABLE;
	begin_sums();
	for (i = 0; i < MEMCG_DEPARTED_CPU_WORDS && i * CPUS_AT_ONCE < nr_cpus; i++)
		if (!add_cpus(i * CPUS_AT_ONCE))
			return UNREADABLE;
	if (!sum_flushed())
		return UNREADABLE;
	return end_sums() ? SUMMED : FLUSHED;
}

/*
 * Adds up the counters, again if another CPU flushes them meanwhile. Returns false if they cannot be read.
 */
__noinline __u64 add_pending(void)
{
	__u32 i;

	departing.own = (__u64)pointer_at(departing.memcg, offsets.memcg_vmstats_percpu) -
			(__u64)percpu_memory_of_anchors();
	for (i = 0; i < MAX_ATTEMPTS; i++) {
		departing.result = sum_counters();
		if (departing.result != FLUSHED)
			break;
	}
	return departing.result != UNREADABLE;
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
	void *css;

	css = pointer_at(cgrp, offsets.cgroup_memory);
	if (!css || values > MEMCG_STATS_MAX_ITEMS || way_from(cgrp) != BELOW || !had_memory(cgrp))
		return 0;
	head->removed_ns = bpf_ktime_get_ns();
	row->cgroup_id = id_of(cgrp);
	row->parent_id = id_of(parent_of(cgrp));
	row->level = u32_at(cgrp, offsets.cgroup_level);
	row->flags = 0;

	departing.memcg = css - offsets.memcg_css;
	if (nr_counters && !add_pending()) {
		count_lost();
		return 0;
	}
	fill_values(departing.memcg, cgrp, departing.words, (__u64 *)(row + 1), values, 0);

	head->depth = departing.depth;
	head->nr_names = 0;
	head->text_size = 0;
	departing.above = cgrp;
	for (i = 0; i < MEMCG_DEPARTED_MAX_DEPTH / LEVELS_AT_ONCE; i++)
		if (!add_names())
			break;
	size = head->text_size;
	if (size > MEMCG_DEPARTED_TEXT_SIZE + MEMCG_STATS_NAME_SIZE)
		return 0;
	size += HEAD_SIZE + values * sizeof(__u64);
	if (bpf_ringbuf_output(&departures, departing.record, size, BPF_RB_NO_WAKEUP))
		count_lost();
	return 0;
}

COMPUTE_ITEMS
