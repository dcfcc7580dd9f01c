/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What memcg_departed is told, and the records that it writes into its ring buffer.
 *
 * Everything is in native byte order. The other side is pymemcgbpf/_bpf/departures.py;
 * tests/unit/bpf/test_departures_drift.py compares the two.
 */
#ifndef DEPARTURES_H
#define DEPARTURES_H

#include "memcg_stats.h"

#define MEMCG_DEPARTED_MAX_DEPTH	1024	/* levels below the root of the walk */
#define MEMCG_DEPARTED_TEXT_SIZE	4096	/* the bytes for the names of one record */
#define MEMCG_DEPARTED_CPU_WORDS	64	/* of the bitmap of CPUs */

/*
 * A cgroup that was removed. struct memcg_stats_row follows, and one __u64 for each item, and then the
 * names: its own first, then its parent's, and so on up to the root of the walk, which is not among them.
 * Each has a NUL at its end.
 */
struct memcg_departed_head {
	__u64 removed_ns;	/* CLOCK_MONOTONIC */
	__u16 flags;		/* MEMCG_DEPARTED_* */
	__u16 text_size;	/* the bytes of the names */
	__u16 depth;		/* how many levels below the root it was */
	__u16 nr_names;		/* as many, or fewer if a name could not be written */
};

#define MEMCG_DEPARTED_UNSETTLED	(1U << 0)	/* the counters are wrong: flushes moved them all the while */

/* Offsets in the kernel's structures, from BTF. */
struct memcg_departed_offsets {
	__u32 cgroup_self;
	__u32 cgroup_kn;
	__u32 cgroup_level;
	__u32 cgroup_memory;		/* the element of subsys[] for the memory controller */
	__u32 cgroup_control;		/* the byte of subtree_control with the memory controller's bit */
	__u32 css_parent;
	__u32 css_sibling;
	__u32 css_children;
	__u32 kn_id;
	__u32 kn_name;
	__u32 memcg_css;
	__u32 memcg_vmstats;		/* the pointer to struct memcg_vmstats */
	__u32 memcg_vmstats_percpu;	/* the pointer to struct memcg_vmstats_percpu of each CPU */
	__u32 array_pptrs;		/* of struct bpf_array */
};

/*
 * A counter in struct memcg_vmstats. Each CPU has its own numbers, and what they were at the last flush, in
 * struct memcg_vmstats_percpu. These are offsets in the two structures.
 */
struct memcg_departed_counter {
	__u32 word;	/* its index among the words */
	__u32 flushed;
	__u32 pending;	/* what children have added since the last flush */
	__u32 now;	/* of a CPU */
	__u32 before;	/* of a CPU, at the last flush */
};

/* A part of a structure. */
struct memcg_departed_part {
	__u32 offset;
	__u32 size;
};

#define MEMCG_DEPARTED_MAX_COUNTERS	256

#endif
