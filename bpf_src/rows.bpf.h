/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Puts the rows of a walk into the map.
 */
#ifndef ROWS_BPF_H
#define ROWS_BPF_H

#include "row.bpf.h"
#include "row_map.bpf.h"

const volatile __u64 program_key = 0;	/* callers must know it: see struct memcg_stats_call */

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
