/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Fills the row of one cgroup.
 */
#ifndef ROW_BPF_H
#define ROW_BPF_H

#include "cgroup_names.bpf.h"

const volatile struct memcg_stats_header header = {};
const volatile __u64 children_of = 0;	/* if set, only children of the cgroup with this id have rows */
const volatile __u32 max_level = ~0U;	/* cgroups further down have no rows in the map */

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

#endif
