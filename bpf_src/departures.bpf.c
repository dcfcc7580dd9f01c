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
#include "items.bpf.h"
#include "kernel_memory.bpf.h"
#include "cgroup_names.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct memcg_departed_offsets offsets = {};
const volatile __u8 control_bit = 0;	/* of the memory controller, in the byte cgroup_control */
const volatile __u64 root_id = 0;	/* cgroups below the one with this id are written down */
const volatile __u32 max_depth = ~0U;	/* those further down are not */
const volatile __u32 nr_items = 0;
const volatile __u32 nr_spans = 0;
const volatile struct memcg_departed_span spans[MEMCG_DEPARTED_MAX_SPANS] = {};
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

#define MAX_SPAN 256	/* words; a power of 2 */
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
	__u64 words[MEMCG_STATS_MAX_WORDS];
	__u64 flushed[MAX_SPAN];
	__u64 now[MAX_SPAN];
	__u64 before[MAX_SPAN];
	__u64 sums[MAX_SPAN];
	/* The record: its head, its row, its values, and its names. */
	__u64 record[(HEAD_SIZE + MEMCG_DEPARTED_TEXT_SIZE + MEMCG_STATS_NAME_SIZE) / sizeof(__u64) +
		     MEMCG_STATS_MAX_ITEMS];
} departing;

static __always_inline __u64 effective_limit(const struct counters *c, __u32 offset)
{
	return least_limit((void *)c->memcg + offset);
}

static __always_inline __u64 function_value(const struct counters *c, __u32 kind, __u32 index)
{
	return MEMCG_STATS_ABSENT;
}

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

/* Goes up some levels from departing.above, and counts them in departing.depth. */
__noinline __u64 go_up(void)
{
	void *above;
	__u32 i;

	for (i = 0; i < LEVELS_AT_ONCE; i++) {
		above = parent_of(departing.above);
		departing.depth++;
		if (!above || departing.depth > max_depth)
			return ELSEWHERE;
		departing.above = above;
		if (id_of(above) == root_id)
			return BELOW;
	}
	return UNKNOWN;
}

/* Returns where a cgroup is. departing.depth is how many levels it is below the root. */
static __always_inline __u64 way_from(void *cgrp)
{
	__u64 found = UNKNOWN;
	__u32 i;

	departing.above = cgrp;
	departing.depth = 0;
	for (i = 0; i < MEMCG_DEPARTED_MAX_DEPTH / LEVELS_AT_ONCE && !found; i++)
		found = go_up();
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

/* Writes the names of some cgroups from departing.above up. Returns 0 if all are written. */
__noinline __u64 add_names(void)
{
	struct memcg_departed_head *head = head_of_record();
	__u32 at, i, values = nr_items;
	char *text;
	void *kn;
	long length;

	if (values > MEMCG_STATS_MAX_ITEMS)
		return 0;
	text = (char *)departing.record + HEAD_SIZE + values * sizeof(__u64);
	for (i = 0; i < LEVELS_AT_ONCE; i++) {
		if (head->nr_names >= departing.depth)
			return 0;
		at = head->text_size;
		if (at > MEMCG_DEPARTED_TEXT_SIZE)
			return 0;
		kn = pointer_at(departing.above, offsets.cgroup_kn);
		length = copy_name(text + at, kn + offsets.kn_name);
		if (length < 1 || length > MEMCG_STATS_NAME_SIZE)
			return 0;
		head->text_size = at + length;
		head->nr_names++;
		departing.above = parent_of(departing.above);
	}
	return 1;
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

/* Copies the counters of a span that are flushed, with what children have added since. */
static __always_inline bool copy_flushed(const volatile struct memcg_departed_span *span, __u32 size,
					 void *vmstats)
{
	return !bpf_probe_read_kernel(departing.flushed, size, vmstats + span->flushed) &&
	       !bpf_probe_read_kernel(departing.now, size, vmstats + span->pending);
}

/* Adds what one CPU has counted since the last flush. Returns false if it cannot be read. */
__noinline __u64 add_cpu(__u32 index, __u32 cpu)
{
	const volatile struct memcg_departed_span *span = &spans[index & 1];
	__u32 nr_words = span->nr_words, zero = 0, i;
	void *anchor, *memory, *own;

	if (nr_words > MAX_SPAN)
		return false;
	anchor = bpf_map_lookup_percpu_elem(&anchors, &zero, cpu);
	if (!anchor)
		return false;
	memory = percpu_memory_of_anchors();
	own = pointer_at(departing.memcg, offsets.memcg_vmstats_percpu);
	*(volatile __u64 *)&departing.memory = (__u64)anchor;
	own += *(volatile __u64 *)&departing.memory - (__u64)memory;
	if (bpf_probe_read_kernel(departing.now, nr_words * sizeof(__u64), own + span->now) ||
	    bpf_probe_read_kernel(departing.before, nr_words * sizeof(__u64), own + span->before))
		return false;
	for (i = 0; i < MAX_SPAN && i < nr_words; i++)
		departing.sums[i] += departing.now[i] - departing.before[i];
	return true;
}

/* The same of some CPUs. */
__noinline __u64 add_cpus(__u32 index, __u32 first)
{
	__u32 cpu, i;

	for (i = 0; i < CPUS_AT_ONCE; i++) {
		cpu = first + i;
		if (cpu >= nr_cpus || cpu >= 64 * MEMCG_DEPARTED_CPU_WORDS)
			break;
		if (possible_cpus[cpu / 64] >> (cpu % 64) & 1 && !add_cpu(index, cpu))
			return false;
	}
	return true;
}

/*
 * Adds up a span. Returns false if it cannot be read, or if another CPU has flushed it meanwhile, since a
 * flush takes numbers from the CPUs to those that are flushed.
 */
__noinline __u64 sum_span(__u32 index)
{
	const volatile struct memcg_departed_span *span = &spans[index & 1];
	__u32 nr_words = span->nr_words, i;
	void *vmstats = pointer_at(departing.memcg, offsets.memcg_vmstats);
	__u64 difference = 0, sum;

	if (nr_words > MAX_SPAN || !copy_flushed(span, nr_words * sizeof(__u64), vmstats))
		return false;
	for (i = 0; i < MAX_SPAN && i < nr_words; i++) {
		sum = departing.flushed[i] + departing.now[i];
		departing.words[(span->word + i) & (MEMCG_STATS_MAX_WORDS - 1)] = sum;
		departing.sums[i] = sum;
	}
	for (i = 0; i < MEMCG_DEPARTED_CPU_WORDS && i * CPUS_AT_ONCE < nr_cpus; i++)
		if (!add_cpus(index, i * CPUS_AT_ONCE))
			return false;
	if (!copy_flushed(span, nr_words * sizeof(__u64), vmstats))
		return false;
	for (i = 0; i < MAX_SPAN && i < nr_words; i++) {
		__u32 word = (span->word + i) & (MEMCG_STATS_MAX_WORDS - 1);

		difference |= departing.words[word] ^ (departing.flushed[i] + departing.now[i]);
		departing.words[word] = departing.sums[i];
	}
	return !difference;
}

/* Brings the copied counters up to date. */
__noinline __u64 add_pending(void)
{
	__u32 span, i;

	for (span = 0; span < nr_spans && span < MEMCG_DEPARTED_MAX_SPANS; span++)
		for (i = 0; i < MAX_ATTEMPTS; i++)
			if (sum_span(span))
				break;
	return 0;
}

static __always_inline void count_lost(void)
{
	__u32 zero = 0;
	__u64 *lost = bpf_map_lookup_elem(&nr_lost, &zero);

	if (lost)
		*(volatile __u64 *)lost += 1;
}

SEC("raw_tp/cgroup_rmdir")
int memcg_departed(struct bpf_raw_tracepoint_args *ctx)
{
	struct memcg_departed_head *head = head_of_record();
	struct memcg_stats_row *row = (void *)(head + 1);
	void *cgrp = (void *)ctx->args[0];
	struct counters counters = { .cgrp = cgrp, .words = departing.words };
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
	counters.memcg = departing.memcg;
	copy_blocks(&counters);
	if (nr_spans)
		add_pending();
	sum_terms(&counters, (__u64 *)(row + 1), values);

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
