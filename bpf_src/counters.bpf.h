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
/*
 * Whether the limits of ancestors are followed by bpf_loop(). The verifier of Linux 6.12 explores each
 * end of a loop of our own anew where that is within the loop of an open-coded iterator.
 */
const volatile bool calls_loop = false;

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

/* The way from the page counter of a cgroup to that of the root. */
struct limit_walk {
	void *counter;	/* the next struct page_counter, for probe reads only; NULL after the root's */
	__u64 least;	/* the least limit so far, in pages */
};

/* Takes one step. It leaves counter as it is if that could not be read. */
static long take_limit(__u32 step, void *context)
{
	struct limit_walk *walk = context;
	void *parent = NULL;
	__u64 max = 0;

	if (bpf_probe_read_kernel(&max, sizeof(max), walk->counter + counter_max) ||
	    bpf_probe_read_kernel(&parent, sizeof(parent), walk->counter + counter_parent))
		return 1;
	if (max < walk->least)
		walk->least = max;
	walk->counter = parent;
	return !parent;
}

#define MAX_LOOPS (1U << 23)	/* the most that bpf_loop() takes */

static __always_inline __u64 effective_limit(const struct counters *c, __u32 offset)
{
	struct limit_walk walk = {
		.counter = (void *)memcg_of(c->cgrp) + offset,
		.least = MEMCG_STATS_UNLIMITED / page_size,
	};

	if (!calls_loop)
		return least_limit(walk.counter);
	bpf_loop(MAX_LOOPS, take_limit, &walk, 0);
	return limit_in_bytes(walk.least) | ~mask_zero((__u64)walk.counter);
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

static __always_inline __u64 function_value(const struct counters *c, __u32 kind, __u32 index)
{
	if (backend == MEMCG_STATS_BACKEND_KFUNC)
		return kfunc_value(c, kind, index);
	if (backend == MEMCG_STATS_BACKEND_RFC)
		return rfc_value(c, kind, index);
	return MEMCG_STATS_ABSENT;
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
