/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * One cgroup's row, and where rows are put.
 */
#ifndef ROWS_BPF_H
#define ROWS_BPF_H

const volatile struct memcg_stats_header header = {};
const volatile __u64 program_key = 0;	/* of a program that is run: see memcg_stats_call */
const volatile __u64 children_of = 0;	/* a cgroup's id: rows of its children only */
/* A stream may be one of several that share a tree: each cgroup is in just one of them. */
const volatile __u32 nr_parts = 0;
const volatile __u32 part = 0;

/* What a walk writes into: in the map a row has header.row_size bytes, here it has the most. */
struct scratch {
	__u64 words[MAX_WORDS];
	__u64 nr_rows;
	struct {
		struct memcg_stats_row head;
		__u64 values[MEMCG_STATS_MAX_ITEMS];
	} row;
};

/*
 * A tree's rows, one an entry, and so next to each other. User space maps them; before load it
 * sets the size of a row and how many there may be.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct memcg_stats_row) + sizeof(__u64));
} rows SEC(".maps");

static __always_inline __u64 parent_id_of(struct cgroup *cgrp)
{
	return cgrp->level > 0 ? cgrp->self.parent->cgroup->kn->id : 0;
}

/*
 * Whether a cgroup is in this part. The ids of cgroups have a stride, that of the files made with
 * each, which a remainder of them alone would let fall on a few parts: so they are mixed before
 * (the end of MurmurHash3).
 */
static __always_inline bool is_in_part(struct cgroup *cgrp)
{
	__u64 cgroup_id;

	if (nr_parts < 2)
		return true;
	cgroup_id = cgrp->kn->id;
	cgroup_id = (cgroup_id ^ cgroup_id >> 33) * 0xff51afd7ed558ccdULL;
	cgroup_id = (cgroup_id ^ cgroup_id >> 33) * 0xc4ceb9fe1a85ec53ULL;
	return (cgroup_id ^ cgroup_id >> 33) % nr_parts == part;
}

/*
 * False where the cgroup has no memory.stat, or is not asked for. Once in the object, for all
 * its callers.
 */
static __noinline bool fill_row(struct cgroup *cgrp, struct cgroup_subsys_state *css,
				__u64 *words, struct memcg_stats_row *row)
{
	/*
	 * The cgroup itself again, as a pointer that the verifier does not trust: up to Linux 6.19 it
	 * searches all of the kernel's BTF, several times, at each pointer that is read through a
	 * trusted one.
	 */
	struct cgroup *same = cgrp->self.cgroup;
	__u64 parent_id = parent_id_of(same);

	if (children_of && parent_id != children_of)
		return false;
	if (!read_counters(cgrp, css, words, (__u64 *)(row + 1), header.nr_items))
		return false;
	row->cgroup_id = same->kn->id;
	row->parent_id = parent_id;
	row->level = cgrp->level;
	row->flags = parent_id ? 0 : MEMCG_STATS_ROW_ROOT;
	return true;
}

/* Whether it would have a row, if there were room for it. */
static __noinline bool has_row(struct cgroup *cgrp)
{
	if (children_of && parent_id_of(cgrp) != children_of)
		return false;
	return visible_memcg_of(cgrp);
}

/* The count is not in a register: the verifier would follow each of its values. */
static __always_inline void add_row(struct cgroup *cgrp, struct cgroup_subsys_state *css,
				    struct scratch *scratch)
{
	__u32 index = scratch->nr_rows;
	struct memcg_stats_row *row = bpf_map_lookup_elem(&rows, &index);

	if (row ? fill_row(cgrp, css, scratch->words, row) : has_row(cgrp))
		scratch->nr_rows++;
}

/*
 * Syscall programs run side by side, and sleep: each call takes a scratch for itself.
 * One per CPU is not enough, as a call can be preempted.
 */
#define NR_SCRATCH 32
#define SCRATCH_TRIES 16

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NR_SCRATCH);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

static __u32 scratch_taken[NR_SCRATCH];

static __always_inline struct scratch *take_scratch(__u32 *slot)
{
	__u32 cpu = bpf_get_smp_processor_id();
	__u32 i, index;

	for (i = 0; i < SCRATCH_TRIES; i++) {
		index = (cpu + i) % NR_SCRATCH;
		if (!__sync_val_compare_and_swap(&scratch_taken[index], 0, 1)) {
			*slot = index;
			return bpf_map_lookup_elem(&scratches, &index);
		}
	}
	return NULL;
}

static __always_inline void give_scratch(__u32 slot)
{
	__sync_lock_test_and_set(&scratch_taken[slot % NR_SCRATCH], 0);
}

#endif
