/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Writes the names of cgroups into a map, beside the rows of a walk.
 */
#ifndef NAMES_BPF_H
#define NAMES_BPF_H

const volatile __u32 nr_names_fit = 0;	/* the number of names in the map; 0 if none are wanted */
const volatile __u32 text_size = 0;	/* the bytes for their text */
const volatile bool can_rename = false;	/* whether cgroups can be renamed: on cgroup v1 */

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

/* Returns the id of the parent, or 0 for the root. */
static __always_inline __u64 parent_id_of(struct cgroup *cgrp)
{
	return cgrp->level > 0 ? cgrp->self.parent->cgroup->kn->id : 0;
}

/* Whether a cgroup further above has another name by now goes unnoticed. */
#define MAX_NAMES_ABOVE 64

static __always_inline struct memcg_stats_names *names_of_walk(void)
{
	__u32 index = 0;

	return bpf_map_lookup_elem(&names, &index);
}

/* Adds a number to a hash of 64 bits. */
static __always_inline __u64 hashed(__u64 hash, __u64 number)
{
	hash = (hash ^ number) * 0x9fb21c651e98df25ULL;
	return hash ^ hash >> 32;
}

/* Returns what name_tag() returns for a name at this address, whose text has this hash. */
static __always_inline __u32 tag_of_name(const char *name, __u32 hash)
{
	return (__u32)hashed((__u64)name, hash) << MEMCG_STATS_ROW_TAG_SHIFT;
}

/*
 * Returns a hash of the cgroup's name for the flags of its row, or 0 if no cgroup can be renamed.
 * After a rename the name is at another address, or the text there has another hash.
 */
static __always_inline __u32 name_tag(struct kernfs_node *kn)
{
	if (!can_rename)
		return 0;
	return tag_of_name(kn->name, kn->hash);
}

/* Begins the output for a walk. The first part of its signature is given. */
static __always_inline void begin_output(struct memcg_stats_names *out, __u64 signature)
{
	out->signature = signature;
	out->newest_id = out->named_id;
	out->nr_names = 0;
	out->text_size = 0;
}

/*
 * Prepares the map for a walk. If cgroups can be renamed, the signature begins with the names of the
 * first cgroup and those above, among them the walk's root, which has no row in some orders.
 */
static __always_inline void begin_names(struct cgroup *first)
{
	struct cgroup_subsys_state *css = &first->self;
	struct memcg_stats_names *out = names_of_walk();
	__u64 signature = 0;
	__u32 i;

	if (!nr_names_fit || !out)
		return;
	if (can_rename) {
		for (i = 0; css && i < MAX_NAMES_ABOVE; i++) {
			signature = hashed(signature, name_tag(css->cgroup->kn));
			css = css->parent;
		}
	}
	begin_output(out, signature);
}

/*
 * Writes the name of a cgroup, or only counts it if it does not fit. The name can then be written to
 * unused, which has room for it. It is not inlined, since it is rarely called.
 */
static __noinline void put_name(__u64 cgroup_id, __u64 parent_id, const char *name,
				struct memcg_stats_names *out, void *unused)
{
	struct memcg_stats_name *entries = (void *)(out + 1);
	char *text = (void *)(entries + nr_names_fit);
	__u32 index = out->nr_names, at = out->text_size;
	long length;

	if (index < nr_names_fit && at <= text_size - MEMCG_STATS_NAME_SIZE) {
		entries[index].cgroup_id = cgroup_id;
		entries[index].parent_id = parent_id;
		length = bpf_probe_read_kernel_str(text + at, MEMCG_STATS_NAME_SIZE, name);
		if (length < 1)
			text[at] = 0;	/* An empty name. The next names keep their places. */
	} else {
		length = bpf_probe_read_kernel_str(unused, MEMCG_STATS_NAME_SIZE, name);
	}
	out->nr_names = index + 1;
	out->text_size = at + (length < 1 ? 1 : length);
}

/*
 * Adds a row to the signature of the walk. Returns whether the cgroup's name is wanted: user space knows
 * it by its id, but a new cgroup has a higher id than all before. *row* is NULL if it did not fit.
 */
static __always_inline bool wants_name(struct memcg_stats_names *out, __u64 cgroup_id,
				       const struct memcg_stats_row *row)
{
	if (row)
		out->signature = hashed(out->signature, cgroup_id ^ (__u64)row->flags << 32);
	if (cgroup_id > out->newest_id)
		out->newest_id = cgroup_id;
	return cgroup_id > out->named_id;
}

/* Does what put_name() does, for a cgroup that can be read directly. */
static __noinline void write_name(struct cgroup *cgrp, struct memcg_stats_names *out, void *unused)
{
	put_name(cgrp->kn->id, parent_id_of(cgrp), cgrp->kn->name, out, unused);
}

/* Adds a row to the signature of the walk, and writes the cgroup's name if that is wanted. */
static __always_inline void name_row(struct cgroup *cgrp, const struct memcg_stats_row *row,
				     void *unused)
{
	struct memcg_stats_names *out = names_of_walk();
	__u64 id = row ? row->cgroup_id : cgrp->self.cgroup->kn->id;

	if (out && wants_name(out, id, row))
		write_name(cgrp->self.cgroup, out, unused);
}

#endif
