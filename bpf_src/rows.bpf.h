/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Fills the row of one cgroup, and puts rows into the map.
 */
#ifndef ROWS_BPF_H
#define ROWS_BPF_H

#include "row_map.bpf.h"

const volatile struct memcg_stats_header header = {};
const volatile __u64 program_key = 0;	/* callers must know it: see struct memcg_stats_call */
const volatile __u64 children_of = 0;	/* if set, only children of the cgroup with this id have rows */
const volatile __u32 max_level = ~0U;	/* cgroups further down have no rows in the map */
/* A stream can be one of several that share a tree. Each cgroup is then in exactly one of them. */
const volatile __u32 nr_parts = 0;
const volatile __u32 part = 0;

/*
 * The working memory of a walk. Its row has room for the most items, while a row of the map has
 * header.row_size bytes.
 */
struct scratch {
	__u64 words[MEMCG_STATS_MAX_WORDS];
	__u64 nr_rows;
	struct names_state names;
	struct {
		struct memcg_stats_row head;
		__u64 values[MEMCG_STATS_MAX_ITEMS];
	} row;
};

/* Returns the id of the parent, or 0 for the root. */
static __always_inline __u64 parent_id_of(struct cgroup *cgrp)
{
	return cgrp->level > 0 ? cgrp->self.parent->cgroup->kn->id : 0;
}

/* Returns the hash of a cgroup's name for the flags of its row, or 0 if no cgroup can be renamed. */
static __always_inline __u32 name_tag(struct cgroup *cgrp)
{
	return can_rename ? tag_of_name(cgrp->kn->name, cgrp->kn->hash) : 0;
}

/*
 * Begins the names of a walk. If cgroups can be renamed, the signature begins with the names of the
 * first cgroup and those above, among them the walk's root, which has no row in some orders.
 */
static __always_inline void begin_names_at(struct cgroup *first, struct names_state *state)
{
	struct cgroup_subsys_state *css = &first->self;
	__u64 signature = 0;
	__u32 i;

	if (!nr_names_fit)
		return;
	for (i = 0; can_rename && css && i < MAX_NAMES_ABOVE; i++) {
		signature = hashed(signature, name_tag(css->cgroup));
		css = css->parent;
	}
	begin_names(state, signature);
}

/* Adds a row to the signature of the walk, and writes the cgroup's name if that is wanted. */
static __always_inline void name_row(struct cgroup *cgrp, const struct memcg_stats_row *row,
				     struct names_state *state, void *unused)
{
	__u64 id = row ? row->cgroup_id : cgrp->self.cgroup->kn->id;

	cgrp = cgrp->self.cgroup;
	if (wants_name(state, id, row))
		write_name(id, parent_id_of(cgrp), &cgrp->kn->name, unused);
}

/*
 * Returns whether a cgroup is in this part. The ids of cgroups that are created in a row differ by
 * a constant, the number of files in each, so their remainders alone would fall into few parts. The
 * ids are therefore mixed first, with the finalizer of MurmurHash3.
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
 * Fills a row and the values behind it. Returns false if the cgroup has no memory.stat, or if no row
 * of it is wanted. It is not inlined, so that the object contains it only once.
 */
static __noinline bool fill_row(struct cgroup *cgrp, struct cgroup_subsys_state *css,
				__u64 *words, struct memcg_stats_row *row)
{
	/*
	 * The same cgroup, through a pointer that the verifier does not trust. Up to Linux 6.19 the
	 * verifier searches the kernel's whole BTF several times for every pointer that is read
	 * through a trusted pointer.
	 */
	struct cgroup *untrusted = cgrp->self.cgroup;
	__u64 parent_id = parent_id_of(untrusted);

	if (children_of && parent_id != children_of)
		return false;
	if (!read_counters(cgrp, css, words, (__u64 *)(row + 1), header.nr_items))
		return false;
	row->cgroup_id = untrusted->kn->id;
	row->parent_id = parent_id;
	row->level = cgrp->level;
	row->flags = name_tag(untrusted) | (parent_id ? 0 : MEMCG_STATS_ROW_ROOT);
	return true;
}

/* Returns whether fill_row() would fill a row for the cgroup. */
static __noinline bool has_row(struct cgroup *cgrp)
{
	if (children_of && parent_id_of(cgrp) != children_of)
		return false;
	return visible_memcg_of(cgrp);
}

/*
 * Adds the cgroup's row and name to the maps, or only counts them if the maps are full. The count is
 * kept in memory: if it were in a register, the verifier would explore the loop for each of its values.
 */
static __always_inline void add_row(struct cgroup *cgrp, struct cgroup_subsys_state *css,
				    struct scratch *scratch)
{
	__u32 index = scratch->nr_rows;
	struct memcg_stats_row *row;

	if (max_level != ~0U && (__u32)cgrp->self.cgroup->level > max_level)
		return;
	row = bpf_map_lookup_elem(&rows, &index);
	if (!(row ? fill_row(cgrp, css, scratch->words, row) : has_row(cgrp)))
		return;
	scratch->nr_rows++;
	if (nr_names_fit)
		name_row(cgrp, row, &scratch->names, scratch->words);
}

/*
 * Syscall programs run concurrently and may sleep, so each call takes a scratch of its own. One
 * scratch for each CPU would not be enough, since a call can be preempted.
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

/* Returns a scratch, and its slot for give_scratch(), or NULL if too many are taken. */
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

/* Makes the scratch in a slot available again. */
static __always_inline void give_scratch(__u32 slot)
{
	__sync_lock_test_and_set(&scratch_taken[slot % NR_SCRATCH], 0);
}

#endif
