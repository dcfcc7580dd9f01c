/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Reads the names of cgroups, and computes hashes of them.
 */
#ifndef CGROUP_NAMES_BPF_H
#define CGROUP_NAMES_BPF_H

const volatile bool can_rename = false;	/* whether cgroups can be renamed: on cgroup v1 */

/* Adds a number to a hash of 64 bits. */
static __always_inline __u64 hashed(__u64 hash, __u64 number)
{
	hash = (hash ^ number) * 0x9fb21c651e98df25ULL;
	return hash ^ hash >> 32;
}

/*
 * Returns a hash of a cgroup's name for the flags of its row: of its address, and of the hash of its text
 * in struct kernfs_node. After a rename the name is at another address, or its text has another hash.
 */
static __always_inline __u32 tag_of_name(const char *name, __u32 hash)
{
	__u64 tag = (__u64)name ^ hash;

	barrier_var(tag);	/* The verifier refuses arithmetic of 32 bits with a pointer. */
	return (__u32)tag << MEMCG_STATS_ROW_TAG_SHIFT;
}

#define NAME_TRIES 3

/*
 * Copies a name, and returns its length with the NUL, or 0 if it cannot be read. *place* is where the
 * kernel keeps the name's address. Before Linux 6.15 a rename frees the old name at once. So the address
 * is read again after the copy; if it is another by then, the copy may be anything.
 */
static __always_inline long copy_name(char *to, const char **place)
{
	const char *name = NULL, *after = NULL;
	long length;
	__u32 i;

	bpf_probe_read_kernel(&name, sizeof(name), place);
	for (i = 0; i < NAME_TRIES; i++) {
		length = bpf_probe_read_kernel_str(to, MEMCG_STATS_NAME_SIZE, name);
		bpf_probe_read_kernel(&after, sizeof(after), place);
		if (after == name)
			return length < 1 ? 0 : length;
		name = after;
	}
	return 0;
}

#endif
