/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Adds up the counters of a cgroup with all updates that are pending, without a flush, which may sleep.
 *
 * A number that is flushed is in struct memcg_vmstats of the cgroup. What is pending is with the CPU that
 * has counted it. A flush of a cgroup takes it from there, and hands the same amount to the cgroup's
 * parent, where it waits as "pending" for the flush of the parent. A child that was removed shortly before
 * may have pending updates, too, until the kernel frees it; it is in the list of the children until then.
 *
 * So a counter is: what is flushed, and what the CPUs have counted since; and, of the cgroup and of each
 * one below that the kernel still keeps, what waits there. A flush on another CPU moves numbers meanwhile;
 * then it is done again.
 *
 * The caller holds cgroup_mutex, so the cgroups below stay as they are.
 */
#ifndef COUNTER_SUMS_BPF_H
#define COUNTER_SUMS_BPF_H

const volatile __u32 nr_counters = 0;	/* of which updates may be pending */
const volatile struct memcg_departed_counter counters[MEMCG_DEPARTED_MAX_COUNTERS] = {};
/* What is copied of struct memcg_vmstats, and of each CPU's struct memcg_vmstats_percpu. */
const volatile struct memcg_departed_part flushed_part = {}, own_part = {};
const volatile __u32 nr_cpus = 0;	/* one more than the highest number of a CPU */
const volatile __u64 possible_cpus[MEMCG_DEPARTED_CPU_WORDS] = {};	/* a bit for each */
const volatile __u32 most_below = 0;	/* how many cgroups below are looked at */

/* It has nothing of use. Its addresses tell how far the memory of each CPU is from that of the kernel. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u64));
} anchors SEC(".maps");

#define MAX_PART 4096	/* bytes of a structure that are copied at once; a power of 2 */
#define CPUS_AT_ONCE 64
#define CGROUPS_AT_ONCE 32
#define MAX_ATTEMPTS 16

/* What is done in a look at all numbers. */
enum look {
	ADD,	/* The counters are added up. */
	CHECK,	/* Only the hash is computed. */
};

static struct {
	void *top;		/* the css of the cgroup whose counters are added up */
	void *css;		/* of the cgroup that is looked at */
	__u64 memory;		/* the address of what cannot be a pointer here */
	__u64 own;		/* the address of each CPU's counters, less that of its anchor */
	__u32 nr_below;		/* the cgroups below that were looked at */
	__u32 unreadable;	/* whether something could not be read */
	__u64 part[MAX_PART / sizeof(__u64)];	/* of a structure */
	__u64 order;		/* what is changed between two looks, and what it was */
	__u64 nr_looks;
	__u64 hash;		/* of all numbers that a flush changes */
	__u64 sums[MEMCG_DEPARTED_MAX_COUNTERS];
} summing;

/*
 * Without casts, a part of a structure is copied at once, and its words are taken from the copy. Returns
 * false if it cannot be read.
 */
static __always_inline bool copy_structure(void *from, const volatile struct memcg_departed_part *part)
{
	__u32 size = part->size;

	if (word_type)
		return true;
	return size <= MAX_PART && !bpf_probe_read_kernel(summing.part, size, from + part->offset);
}

static __always_inline __u64 word_of(void *structure, __u32 offset,
				     const volatile struct memcg_departed_part *part)
{
	if (word_type)
		return u64_at(structure, offset);
	offset = (offset - part->offset) & (MAX_PART - sizeof(__u64));
	return *(__u64 *)((void *)summing.part + offset);
}

static __always_inline void *memcg_at(void *css)
{
	return css - offsets.memcg_css;
}

/*
 * Returns where the memory of each CPU is for the kernel. The verifier does not let programs compute with
 * the address of a map, so it is kept as a number.
 */
static __always_inline __u64 percpu_memory_of_anchors(void)
{
	*(volatile __u64 *)&summing.memory = (__u64)&anchors;
	return u64_at((void *)*(volatile __u64 *)&summing.memory, offsets.array_pptrs);
}

/* Looks at what one CPU has counted for summing.css since the last flush. Returns false if it cannot. */
__noinline __u64 look_at_cpu(__u32 look, __u32 cpu)
{
	__u64 before, hash = summing.hash;
	__u32 zero = 0, i;
	void *anchor, *own;

	anchor = bpf_map_lookup_percpu_elem(&anchors, &zero, cpu);
	if (!anchor)
		return false;
	*(volatile __u64 *)&summing.memory = (__u64)anchor;
	own = (void *)summing.own + *(volatile __u64 *)&summing.memory;
	if (!copy_structure(own, &own_part))
		return false;
	for (i = 0; i < MEMCG_DEPARTED_MAX_COUNTERS && i < nr_counters; i++) {
		before = word_of(own, counters[i].before, &own_part);
		hash = hashed(hash, before);
		if (look == ADD)
			summing.sums[i] += word_of(own, counters[i].now, &own_part) - before;
	}
	summing.hash = hash;
	return true;
}

/* The same of some CPUs. */
__noinline __u64 look_at_cpus(__u32 look, __u32 first)
{
	__u32 cpu, i;

	for (i = 0; i < CPUS_AT_ONCE; i++) {
		cpu = first + i;
		if (cpu >= nr_cpus || cpu >= 64 * MEMCG_DEPARTED_CPU_WORDS)
			break;
		if (possible_cpus[cpu / 64] >> (cpu % 64) & 1 && !look_at_cpu(look, cpu))
			return false;
	}
	return true;
}

/* Looks at what waits at summing.css for the flush of its parent. Returns false if it cannot. */
__noinline __u64 look_at_waiting(__u32 look)
{
	void *vmstats = pointer_at(memcg_at(summing.css), offsets.memcg_vmstats);
	__u64 waiting, hash = summing.hash;
	__u32 i;

	if (!copy_structure(vmstats, &flushed_part))
		return false;
	for (i = 0; i < MEMCG_DEPARTED_MAX_COUNTERS && i < nr_counters; i++) {
		waiting = word_of(vmstats, counters[i].pending, &flushed_part);
		hash = hashed(hash, waiting);
		if (look == ADD)
			summing.sums[i] += waiting;
	}
	summing.hash = hash;
	return true;
}

/* Looks at all that is pending at summing.css. Returns false if it cannot. */
__noinline __u64 look_at_css(__u32 look)
{
	__u32 i;

	summing.own = u64_at(memcg_at(summing.css), offsets.memcg_vmstats_percpu) -
		      percpu_memory_of_anchors();
	for (i = 0; i < MEMCG_DEPARTED_CPU_WORDS && i * CPUS_AT_ONCE < nr_cpus; i++)
		if (!look_at_cpus(look, i * CPUS_AT_ONCE))
			return false;
	return look_at_waiting(look);
}

/* Begins a look: with what is flushed. Returns false if it cannot. */
__noinline __u64 look_at_flushed(__u32 look)
{
	void *vmstats = pointer_at(memcg_at(summing.top), offsets.memcg_vmstats);
	__u64 flushed, hash = 0;
	__u32 i;

	if (!copy_structure(vmstats, &flushed_part))
		return false;
	for (i = 0; i < MEMCG_DEPARTED_MAX_COUNTERS && i < nr_counters; i++) {
		flushed = word_of(vmstats, counters[i].flushed, &flushed_part);
		hash = hashed(hash, flushed);
		if (look == ADD)
			summing.sums[i] = flushed;
	}
	summing.hash = hash;
	return true;
}

/* Goes to the next sibling of summing.css, or up. Returns whether to go on: it went up, not to the top. */
__noinline __u64 go_along(void)
{
	void *parent, *next;

	if (summing.css == summing.top)
		return false;
	parent = pointer_at(summing.css, offsets.css_parent);
	next = pointer_at(summing.css, offsets.css_sibling);
	if (next != parent + offsets.css_children) {
		summing.css = next - offsets.css_sibling;
		return false;
	}
	summing.css = parent;
	return true;
}

/* Looks at summing.css, and goes to the next one. Returns whether there is one. */
__noinline __u64 look_and_go(__u32 look)
{
	__u64 further = true;
	void *first;
	__u32 i;

	if (!look_at_css(look)) {
		summing.unreadable = true;
		return false;
	}
	if (summing.nr_below++ >= most_below)
		return false;
	first = pointer_at(summing.css, offsets.css_children);
	if (first != summing.css + offsets.css_children) {
		summing.css = first - offsets.css_sibling;
		return true;
	}
	for (i = 0; i < CGROUPS_AT_ONCE && further; i++)
		further = go_along();
	return !further && summing.css != summing.top;
}

__noinline __u64 look_at_some(__u32 look)
{
	__u32 i;

	for (i = 0; i < CGROUPS_AT_ONCE; i++)
		if (!look_and_go(look))
			return false;
	return true;
}

/* Looks at the cgroup, and at all below it. Returns the hash. */
__noinline __u64 look_at_all(__u32 look)
{
	__u32 i;

	if (!look_at_flushed(look))
		summing.unreadable = true;
	summing.css = summing.top;
	summing.nr_below = 0;
	for (i = 0; i < CGROUPS_AT_ONCE && look_at_some(look); i++)
		;
	return summing.hash;
}

/* What came of adding up the counters. */
enum sums {
	SETTLED,
	MOVING,		/* Flushes have moved numbers each time. */
	UNREADABLE,
};

/*
 * Adds up the counters of a css, and puts them to their places among the words. If all numbers that a flush
 * changes are the same in a second look, then they were so between the two.
 */
static __always_inline enum sums sum_counters(void *css, __u64 *words)
{
	__u64 hash = 0;
	bool same = false;
	__u32 i;

	summing.top = css;
	summing.unreadable = false;
	for (i = 0; i < MAX_ATTEMPTS && !same; i++) {
		hash = look_at_all(ADD);
		/* All loads of the first look come before those of the second. */
		*(volatile __u64 *)&summing.nr_looks = __sync_fetch_and_add(&summing.order, 1);
		same = hash == look_at_all(CHECK);
	}
	for (i = 0; i < MEMCG_DEPARTED_MAX_COUNTERS && i < nr_counters; i++)
		words[counters[i].word & (MEMCG_STATS_MAX_WORDS - 1)] = summing.sums[i];
	if (summing.unreadable)
		return UNREADABLE;
	return same ? SETTLED : MOVING;
}

#endif
