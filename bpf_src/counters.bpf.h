/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * One cgroup's counters, from whichever source user space chose before load.
 *
 * The choices are `const volatile`: the verifier knows their values and drops
 * every branch not taken, so a kfunc that this kernel lacks is never seen.
 */
#ifndef COUNTERS_BPF_H
#define COUNTERS_BPF_H

const volatile __u32 backend = 0;	/* enum memcg_stats_backend */
const volatile __u32 flush = 0;		/* enum memcg_stats_flush */
const volatile __u32 memory_cgrp_id = 0;	/* enum cgroup_subsys_id, from BTF */
const volatile __u32 page_size = 4096;
const volatile __u32 vmstats_size = 0;	/* bytes of state[] and events[] together, core only */
const volatile __u32 nr_terms = 0;
const volatile struct memcg_stats_term terms[MEMCG_STATS_MAX_TERMS] = {};

/* Linux 7.0: mm/bpf_memcontrol.c */
extern struct mem_cgroup *bpf_get_mem_cgroup(struct cgroup_subsys_state *css) __ksym __weak;
extern void bpf_put_mem_cgroup(struct mem_cgroup *memcg) __ksym __weak;
extern unsigned long bpf_mem_cgroup_page_state(struct mem_cgroup *memcg, int idx) __ksym __weak;
extern unsigned long bpf_mem_cgroup_vm_events(struct mem_cgroup *memcg,
					      enum vm_event_item event) __ksym __weak;
extern unsigned long bpf_mem_cgroup_usage(struct mem_cgroup *memcg) __ksym __weak;
extern void bpf_mem_cgroup_flush_stats(struct mem_cgroup *memcg) __ksym __weak;

/* The first form of the patch. */
extern unsigned long memcg_node_stat_fetch(struct cgroup *cgrp, enum node_stat_item item) __ksym __weak;
extern unsigned long memcg_stat_fetch(struct cgroup *cgrp, enum memcg_stat_item item) __ksym __weak;
extern unsigned long memcg_vm_event_fetch(struct cgroup *cgrp, enum vm_event_item item) __ksym __weak;
extern void memcg_flush_stats(struct cgroup *cgrp) __ksym __weak;

/* Linux 6.1 to 6.15: kernel/cgroup/rstat.c */
extern void cgroup_rstat_flush(struct cgroup *cgrp) __ksym __weak;

/* state[] and events[], copied in one go. 2 KiB hold twice what any kernel has. */
#define VMSTATS_MAX 256

struct counters {
	struct cgroup *cgrp;
	struct mem_cgroup *memcg;	/* kfunc: a reference; else only for probe reads */
	__u64 *vmstats;			/* core: room for VMSTATS_MAX counters */
	bool is_root;			/* of its hierarchy */
};

/* NULL where the memory controller is not enabled. Good for reads, not for kfuncs. */
static __always_inline struct mem_cgroup *memcg_of(struct cgroup *cgrp)
{
	struct cgroup_subsys_state *css = NULL;

	bpf_probe_read_kernel(&css, sizeof(css),
			      (void *)&cgrp->subsys[0] + memory_cgrp_id * sizeof(css));
	if (!css)
		return NULL;
	return (void *)css - bpf_core_field_offset(struct mem_cgroup, css);
}

static __always_inline __u64 usage_bytes(struct mem_cgroup *memcg)
{
	__s64 pages = 0;

	bpf_probe_read_kernel(&pages, sizeof(pages), &memcg->memory.usage);
	return (__u64)pages * page_size;
}

static __always_inline __u64 kfunc_value(const struct counters *c, __u32 kind, __u32 index)
{
	switch (kind) {
	case MEMCG_STATS_KIND_NODE:
	case MEMCG_STATS_KIND_MEMCG:
		return bpf_mem_cgroup_page_state(c->memcg, index);
	case MEMCG_STATS_KIND_EVENT:
		return bpf_mem_cgroup_vm_events(c->memcg, index);
	case MEMCG_STATS_KIND_USAGE:
		return bpf_mem_cgroup_usage(c->memcg);
	default:
		return MEMCG_STATS_ABSENT;
	}
}

static __always_inline __u64 rfc_value(const struct counters *c, __u32 kind, __u32 index)
{
	switch (kind) {
	case MEMCG_STATS_KIND_NODE:
		return memcg_node_stat_fetch(c->cgrp, index);
	case MEMCG_STATS_KIND_MEMCG:
		return memcg_stat_fetch(c->cgrp, index);
	case MEMCG_STATS_KIND_EVENT:
		return memcg_vm_event_fetch(c->cgrp, index);
	case MEMCG_STATS_KIND_USAGE:
		return usage_bytes(c->memcg);
	default:
		return MEMCG_STATS_ABSENT;
	}
}

static __always_inline __u64 core_value(const struct counters *c, __u32 kind, __u32 index)
{
	__s64 value;

	if (kind == MEMCG_STATS_KIND_USAGE)
		return usage_bytes(c->memcg);
	if (index >= VMSTATS_MAX)
		return MEMCG_STATS_ABSENT;
	value = c->vmstats[index];
	/* Per-cpu deltas may not have met yet; memory.stat shows 0 as well. */
	if (kind != MEMCG_STATS_KIND_EVENT && value < 0)
		value = 0;
	return value;
}

/* Sums the terms into one value per item: nr_items of them, which values[] must have room for. */
static __always_inline void fill_values(const struct counters *c, __u64 *values, __u32 nr_items)
{
	__u64 sum = 0, value;
	__u32 i, item = 0;

	for (i = 0; i < MEMCG_STATS_MAX_TERMS; i++) {
		__u32 kind, index;

		if (i >= nr_terms)
			break;
		kind = terms[i].kind;
		index = terms[i].counter;
		if (kind == MEMCG_STATS_KIND_USAGE && c->is_root)
			value = MEMCG_STATS_ABSENT; /* the kernel shows none */
		else if (backend == MEMCG_STATS_BACKEND_KFUNC)
			value = kfunc_value(c, kind, index);
		else if (backend == MEMCG_STATS_BACKEND_RFC)
			value = rfc_value(c, kind, index);
		else
			value = core_value(c, kind, index);

		if (value == MEMCG_STATS_ABSENT || sum == MEMCG_STATS_ABSENT)
			sum = MEMCG_STATS_ABSENT;
		else
			sum += value * terms[i].unit;

		if (terms[i].last) {
			if (item >= nr_items || item >= MEMCG_STATS_MAX_ITEMS)
				break;
			values[item++] = sum;
			sum = 0;
		}
	}
}

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
 * Fills values[] for one cgroup, whose own css (or any other of its csses) is given. False where
 * it has no memory.stat, or its counters could not be read.
 */
static __always_inline bool read_counters(struct cgroup *cgrp, struct cgroup_subsys_state *css,
					  __u64 *vmstats, __u64 *values, __u32 nr_items)
{
	struct counters c = { .cgrp = cgrp, .vmstats = vmstats, .is_root = cgrp->level == 0 };
	__u32 css_flags = 0;

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

	c.memcg = memcg_of(cgrp);
	if (!c.memcg)
		return false;
	/* Not where the controller serves another one only, is on its way out, or not there yet. */
	if (bpf_probe_read_kernel(&css_flags, sizeof(css_flags), &c.memcg->css.flags) ||
	    !(css_flags & CSS_VISIBLE))
		return false;
	if (backend == MEMCG_STATS_BACKEND_CORE && vmstats_size) {
		struct memcg_vmstats *from = NULL;

		if (vmstats_size > VMSTATS_MAX * sizeof(__u64))
			return false;
		if (bpf_probe_read_kernel(&from, sizeof(from), &c.memcg->vmstats) ||
		    bpf_probe_read_kernel(vmstats, vmstats_size, from))
			return false;
	}
	fill_values(&c, values, nr_items);
	return true;
}

#endif
