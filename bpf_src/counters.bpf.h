/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Reads the counters of one cgroup, from the backend that user space chose before load.
 *
 * The choices are `const volatile` variables. The verifier knows their values and removes every
 * branch that is not taken, so it never sees a call of a kfunc that this kernel lacks.
 */
#ifndef COUNTERS_BPF_H
#define COUNTERS_BPF_H

const volatile __u32 backend = 0;	/* enum memcg_stats_backend */
const volatile __u32 flush = 0;		/* enum memcg_stats_flush */
const volatile __u32 flush_each = 0;	/* whether a stream flushes every cgroup, not only the first */
const volatile __u32 memory_cgrp_id = 0;	/* enum cgroup_subsys_id, from BTF */
const volatile __u32 page_size = 4096;
const volatile __u32 counter_max = 0;	/* the offset of max in struct page_counter, from BTF */
const volatile __u32 counter_parent = 0;	/* the offset of parent in it */
const volatile __u32 nr_blocks = 0;
const volatile struct memcg_stats_block blocks[MEMCG_STATS_MAX_BLOCKS] = {};
const volatile __u32 nr_terms = 0;
const volatile struct memcg_stats_term terms[MEMCG_STATS_MAX_TERMS] = {};

#ifndef MEMCG_STATS_CORE_ALONE

/* Linux 7.0: mm/bpf_memcontrol.c */
extern struct mem_cgroup *bpf_get_mem_cgroup(struct cgroup_subsys_state *css) __ksym __weak;
extern void bpf_put_mem_cgroup(struct mem_cgroup *memcg) __ksym __weak;
extern unsigned long bpf_mem_cgroup_page_state(struct mem_cgroup *memcg, int idx) __ksym __weak;
extern unsigned long bpf_mem_cgroup_vm_events(struct mem_cgroup *memcg,
					      enum vm_event_item event) __ksym __weak;
extern unsigned long bpf_mem_cgroup_memory_events(struct mem_cgroup *memcg,
						  enum memcg_memory_event event) __ksym __weak;
extern unsigned long bpf_mem_cgroup_usage(struct mem_cgroup *memcg) __ksym __weak;
extern void bpf_mem_cgroup_flush_stats(struct mem_cgroup *memcg) __ksym __weak;

/* The first version of the patch, which was never merged. */
extern unsigned long memcg_node_stat_fetch(struct cgroup *cgrp, enum node_stat_item item) __ksym __weak;
extern unsigned long memcg_stat_fetch(struct cgroup *cgrp, enum memcg_stat_item item) __ksym __weak;
extern unsigned long memcg_vm_event_fetch(struct cgroup *cgrp, enum vm_event_item item) __ksym __weak;
extern void memcg_flush_stats(struct cgroup *cgrp) __ksym __weak;

#else

/*
 * libbpf looks up every function that an object names in the kernel's BTF, whether or not it is
 * called, and a function that is missing takes longest. So there is a second object, which names
 * none of these functions and serves the backend "core".
 */
static __always_inline struct mem_cgroup *bpf_get_mem_cgroup(struct cgroup_subsys_state *css)
{
	return NULL;
}
#define bpf_put_mem_cgroup(memcg) ((void)(memcg))
#define bpf_mem_cgroup_page_state(memcg, idx) MEMCG_STATS_ABSENT
#define bpf_mem_cgroup_vm_events(memcg, event) MEMCG_STATS_ABSENT
#define bpf_mem_cgroup_memory_events(memcg, event) MEMCG_STATS_ABSENT
#define bpf_mem_cgroup_usage(memcg) MEMCG_STATS_ABSENT
#define bpf_mem_cgroup_flush_stats(memcg) ((void)(memcg))
#define memcg_node_stat_fetch(cgrp, item) MEMCG_STATS_ABSENT
#define memcg_stat_fetch(cgrp, item) MEMCG_STATS_ABSENT
#define memcg_vm_event_fetch(cgrp, item) MEMCG_STATS_ABSENT
#define memcg_flush_stats(cgrp) ((void)(cgrp))

#endif

/* Linux 6.1 to 6.15: kernel/cgroup/rstat.c */
extern void cgroup_rstat_flush(struct cgroup *cgrp) __ksym __weak;

struct counters {
	struct cgroup *cgrp;
	struct mem_cgroup *memcg;	/* a reference with the backend kfunc, else for probe reads only */
	__u64 *words;			/* has room for MEMCG_STATS_MAX_WORDS words */
	__u64 missing;			/* one bit for each block that could not be copied */
	__u64 on_root;			/* all ones for the root of a hierarchy, otherwise 0 */
};

/*
 * Returns the cgroup's struct mem_cgroup, or NULL if the memory controller is not enabled for it. The
 * pointer serves bpf_probe_read_kernel() only: no kfunc accepts it.
 */
static __always_inline struct mem_cgroup *memcg_of(struct cgroup *cgrp)
{
	struct cgroup_subsys_state *css = NULL;

	bpf_probe_read_kernel(&css, sizeof(css),
			      (void *)&cgrp->subsys[0] + memory_cgrp_id * sizeof(css));
	if (!css)
		return NULL;
	return (void *)css - bpf_core_field_offset(struct mem_cgroup, css);
}

/*
 * The same, but returns NULL also if the cgroup has no memory.stat: the controller is enabled on
 * behalf of another cgroup only, is just being disabled, or is not online yet.
 */
static __always_inline struct mem_cgroup *visible_memcg_of(struct cgroup *cgrp)
{
	struct mem_cgroup *memcg = memcg_of(cgrp);
	__u32 css_flags = 0;

	if (!memcg || bpf_probe_read_kernel(&css_flags, sizeof(css_flags), &memcg->css.flags) ||
	    !(css_flags & CSS_VISIBLE))
		return NULL;
	return memcg;
}

/*
 * The code below never branches on a number that it has read: the verifier would explore both
 * branches, for each of hundreds of numbers. A condition is a mask instead, which is all ones or 0,
 * and barrier_var() keeps the compiler from turning it into a branch again.
 */

/* Returns all ones if value is negative, otherwise 0. */
static __always_inline __u64 mask_negative(__u64 value)
{
	__u64 mask = (__s64)value >> 63;

	barrier_var(mask);
	return mask;
}

/* Returns all ones if value is 0, otherwise 0. */
static __always_inline __u64 mask_zero(__u64 value)
{
	value |= -value;
	barrier_var(value);
	return ~mask_negative(value);
}

/*
 * Copies a block to its place among the words. Returns 0, or all ones if the block does not exist or
 * could not be read.
 */
static __always_inline __u64 copy_block(const volatile struct memcg_stats_block *block,
					const struct counters *c)
{
	__u32 step, size = block->size, word = block->word;
	__u32 enabled_offset = block->enabled_offset;
	void *from = c->memcg;
	__u64 missing = 0;
	__u8 enabled = 0;

	if (word >= MEMCG_STATS_MAX_WORDS || size > (MEMCG_STATS_MAX_WORDS - word) * sizeof(__u64))
		return ~0ULL;
	if (block->start == MEMCG_STATS_START_CGROUP)
		from = c->cgrp;
	/* If a pointer is NULL, the next read fails and leaves NULL, and so does the last read. */
	for (step = 0; step < MEMCG_STATS_MAX_STEPS; step++) {
		void *next = NULL;

		if (step >= block->nr_steps)
			break;
		bpf_probe_read_kernel(&next, sizeof(next), from + block->steps[step]);
		from = next;
	}
	if (enabled_offset) {
		bpf_probe_read_kernel(&enabled, sizeof(enabled), from + (enabled_offset - 1));
		missing = mask_zero(enabled);
	}
	return missing |
	       mask_negative(bpf_probe_read_kernel(c->words + word, size, from + block->offset));
}

/* Copies all blocks into c->words, and notes in c->missing those that could not be copied. */
static __always_inline void copy_blocks(struct counters *c)
{
	__u32 i;

	for (i = 0; i < MEMCG_STATS_MAX_BLOCKS; i++) {
		if (i >= nr_blocks)
			break;
		c->missing |= copy_block(&blocks[i], c) & (1ULL << i);
	}
}

/* Returns a limit in bytes. PAGE_COUNTER_MAX pages, or more, mean that there is no limit. */
static __always_inline __u64 limit_in_bytes(__u64 pages)
{
	__u64 unlimited = ~mask_negative(pages - MEMCG_STATS_UNLIMITED / page_size);

	return ((pages * page_size) & ~unlimited) | (MEMCG_STATS_UNLIMITED & unlimited);
}

/* How many cgroups may be above one that has an effective limit. */
#define MAX_ANCESTORS 127

/*
 * Returns the least limit of the cgroup and its ancestors, or MEMCG_STATS_ABSENT if one could not be
 * read. offset is that of the cgroup's struct page_counter, each of which leads to the next one up.
 */
static __always_inline __u64 least_limit(const struct counters *c, __u32 offset)
{
	__u64 max, lower, least = MEMCG_STATS_UNLIMITED / page_size;
	void *parent, *counter = (void *)memcg_of(c->cgrp) + offset;
	__u32 i;

	for (i = 0; i <= MAX_ANCESTORS && counter; i++) {
		if (bpf_probe_read_kernel(&max, sizeof(max), counter + counter_max) ||
		    bpf_probe_read_kernel(&parent, sizeof(parent), counter + counter_parent))
			break;
		lower = mask_negative(max - least);
		least = (max & lower) | (least & ~lower);
		counter = parent;
	}
	return limit_in_bytes(least) | ~mask_zero((__u64)counter);
}

/* Returns the value of a copied word, or MEMCG_STATS_ABSENT if its block is missing. */
static __always_inline __u64 word_value(const struct counters *c, __u32 kind, __u32 index,
					__u32 block)
{
	/* absent is all ones, which is MEMCG_STATS_ABSENT, or 0. */
	__u64 value, absent = -(c->missing >> (block & 63) & 1);

	if (index >= MEMCG_STATS_MAX_WORDS)
		return MEMCG_STATS_ABSENT;
	value = c->words[index];
	switch (kind) {
	case MEMCG_STATS_KIND_WORD:
		break;
	case MEMCG_STATS_KIND_SIGNED:
		/* Updates of several CPUs may not all have arrived yet. memory.stat shows 0, too. */
		value &= ~mask_negative(value);
		break;
	case MEMCG_STATS_KIND_LIMIT:
		value = limit_in_bytes(value);
		break;
	case MEMCG_STATS_KIND_NANOSECONDS:
		value /= 1000;
		break;
	default:
		return MEMCG_STATS_ABSENT;
	}
	return value | absent;
}

/* Returns what the kfunc for this kind of counter returns. */
static __always_inline __u64 kfunc_value(const struct counters *c, __u32 kind, __u32 index)
{
	switch (kind) {
	case MEMCG_STATS_KIND_NODE:
	case MEMCG_STATS_KIND_MEMCG:
		return bpf_mem_cgroup_page_state(c->memcg, index);
	case MEMCG_STATS_KIND_EVENT:
		return bpf_mem_cgroup_vm_events(c->memcg, index);
	case MEMCG_STATS_KIND_MEMORY_EVENT:
		return bpf_mem_cgroup_memory_events(c->memcg, index);
	case MEMCG_STATS_KIND_USAGE:
		return bpf_mem_cgroup_usage(c->memcg);
	default:
		return MEMCG_STATS_ABSENT;
	}
}

/* Returns what the function of the first version of the patch returns. */
static __always_inline __u64 rfc_value(const struct counters *c, __u32 kind, __u32 index)
{
	switch (kind) {
	case MEMCG_STATS_KIND_NODE:
		return memcg_node_stat_fetch(c->cgrp, index);
	case MEMCG_STATS_KIND_MEMCG:
		return memcg_stat_fetch(c->cgrp, index);
	case MEMCG_STATS_KIND_EVENT:
		return memcg_vm_event_fetch(c->cgrp, index);
	default:
		return MEMCG_STATS_ABSENT;
	}
}

/* Returns the value of term i, or MEMCG_STATS_ABSENT. */
static __always_inline __u64 term_value(const struct counters *c, __u32 i)
{
	__u32 kind = terms[i].kind, index = terms[i].counter;

	if (kind >= MEMCG_STATS_KIND_WORD)
		return word_value(c, kind, index, terms[i].block);
	if (kind == MEMCG_STATS_KIND_LEAST_LIMIT)
		return least_limit(c, index);
	if (backend == MEMCG_STATS_BACKEND_KFUNC)
		return kfunc_value(c, kind, index);
	if (backend == MEMCG_STATS_BACKEND_RFC)
		return rfc_value(c, kind, index);
	return MEMCG_STATS_ABSENT;
}

/*
 * Copies the blocks, and sums the terms into one value for each item. values[] must have room for
 * nr_items values. A value is MEMCG_STATS_ABSENT if one of its terms is.
 */
static __always_inline void fill_values(struct counters *c, __u64 *values, __u32 nr_items)
{
	__u64 sum = 0, absent = 0, value;
	__u32 i, item = 0;

	copy_blocks(c);
	for (i = 0; i < MEMCG_STATS_MAX_TERMS; i++) {
		if (i >= nr_terms)
			break;
		value = term_value(c, i);
		absent |= mask_zero(~value);
		if (terms[i].flags & MEMCG_STATS_TERM_NOT_ON_ROOT)
			absent |= c->on_root;
		sum += value * terms[i].unit;

		if (terms[i].flags & MEMCG_STATS_TERM_LAST) {
			if (item >= nr_items || item >= MEMCG_STATS_MAX_ITEMS)
				break;
			if (terms[i].flags & MEMCG_STATS_TERM_AT_LEAST_0)
				sum &= ~mask_negative(sum);
			values[item++] = sum | absent;
			sum = absent = 0;
		}
	}
}

/*
 * Brings the pending updates of a cgroup and its descendants up to date, if user space chose a way
 * to do so. This may sleep.
 */
static __always_inline void flush_subtree(struct cgroup *cgrp)
{
	if (flush == MEMCG_STATS_FLUSH_KFUNC) {
		struct mem_cgroup *memcg = bpf_get_mem_cgroup(&cgrp->self);

		if (!memcg)
			return;
		bpf_mem_cgroup_flush_stats(memcg);
		bpf_put_mem_cgroup(memcg);
	} else if (flush == MEMCG_STATS_FLUSH_RFC) {
		memcg_flush_stats(cgrp);
	} else if (flush == MEMCG_STATS_FLUSH_RSTAT) {
		cgroup_rstat_flush(cgrp);
	}
}

/*
 * Fills values[] for one cgroup. css is the cgroup's own css or any other of its csses. Returns false
 * if the cgroup has no memory.stat, or its counters could not be read.
 *
 * The backends stay apart here, since their pointers are of different types for the verifier: the
 * kfunc's is a trusted reference, which is read directly and must be released, and the other's is a
 * number, good for probe reads only.
 */
static __always_inline bool read_counters(struct cgroup *cgrp, struct cgroup_subsys_state *css,
					  __u64 *words, __u64 *values, __u32 nr_items)
{
	struct counters c = { .cgrp = cgrp, .words = words, .on_root = mask_zero(cgrp->level) };

	if (backend == MEMCG_STATS_BACKEND_KFUNC) {
		bool visible;

		c.memcg = bpf_get_mem_cgroup(css);
		if (!c.memcg)
			return false;
		visible = c.memcg->css.flags & CSS_VISIBLE;
		if (visible)
			fill_values(&c, values, nr_items);
		bpf_put_mem_cgroup(c.memcg);
		return visible;
	}

	c.memcg = visible_memcg_of(cgrp);
	if (!c.memcg)
		return false;
	fill_values(&c, values, nr_items);
	return true;
}

#endif
