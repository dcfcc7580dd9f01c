/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Writes the names of cgroups into a map, beside the rows of a walk.
 */
#ifndef NAMES_BPF_H
#define NAMES_BPF_H

#include "cgroup_names.bpf.h"

const volatile __u32 nr_names_fit = 0;	/* the number of names in the map; 0 if none are wanted */
const volatile __u32 text_size = 0;	/* the bytes for their text */

/*
 * One struct memcg_stats_names, an array of nr_names_fit struct memcg_stats_name, and text_size bytes
 * of text. User space maps it, and sets its size before load.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct memcg_stats_names));
} names SEC(".maps");

/* Whether a cgroup further above has another name by now goes unnoticed. */
#define MAX_NAMES_ABOVE 64

/* What a walk knows of its names so far. */
struct names_state {
	__u64 signature;
	__u64 named_id;		/* cgroups with a higher id need a name */
	__u64 newest_id;
};

static __always_inline struct memcg_stats_names *names_of_walk(void)
{
	__u32 index = 0;

	return bpf_map_lookup_elem(&names, &index);
}

/* Begins the names of a walk. The beginning of its signature is given. */
static __always_inline void begin_names(struct names_state *state, __u64 signature)
{
	struct memcg_stats_names *out = names_of_walk();

	if (!out)
		return;
	state->signature = signature;
	state->named_id = state->newest_id = out->named_id;
	out->nr_names = 0;
	out->text_size = 0;
}

/*
 * Adds a row to the signature of the walk. Returns whether the cgroup's name is wanted: user space knows
 * it by its id, but a new cgroup has a higher id than all before. *row* is NULL if it did not fit.
 */
static __always_inline bool wants_name(struct names_state *state, __u64 cgroup_id,
				       const struct memcg_stats_row *row)
{
	if (row)
		state->signature = hashed(state->signature, cgroup_id ^ (__u64)row->flags << 32);
	if (cgroup_id <= state->named_id)
		return false;
	if (cgroup_id > state->newest_id)
		state->newest_id = cgroup_id;
	return true;
}

/*
 * Writes the name of a cgroup, or only counts it if it does not fit. The name can then be written to
 * unused, which has room for it. *place* is where the kernel keeps the name's address. It is not
 * inlined, since it is rarely called.
 */
static __noinline void write_name(__u64 cgroup_id, __u64 parent_id, const char **place, void *unused)
{
	struct memcg_stats_names *out = names_of_walk();
	struct memcg_stats_name *entries;
	__u32 index, at;
	long length;
	char *text;

	if (!out)
		return;
	entries = (void *)(out + 1);
	text = (void *)(entries + nr_names_fit);
	index = out->nr_names;
	at = out->text_size;
	if (index < nr_names_fit && at <= text_size - MEMCG_STATS_NAME_SIZE) {
		entries[index].cgroup_id = cgroup_id;
		entries[index].parent_id = parent_id;
		length = copy_name(text + at, place);
		if (!length)
			text[at] = 0;	/* An empty name. The next names keep their places. */
	} else {
		length = copy_name(unused, place);
	}
	out->nr_names = index + 1;
	out->text_size = at + (length ? length : 1);
}

/* Completes the names of a walk. */
static __always_inline void end_names(const struct names_state *state)
{
	struct memcg_stats_names *out = names_of_walk();

	if (!nr_names_fit || !out)
		return;
	out->signature = state->signature;
	out->newest_id = state->newest_id;
}

#endif
