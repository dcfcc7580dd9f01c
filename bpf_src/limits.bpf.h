/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Numbers of the kernel as masks and limits, and the least limit of a cgroup and its ancestors.
 */
#ifndef LIMITS_BPF_H
#define LIMITS_BPF_H

/*
 * The flag in cgroup_subsys_state.flags that says that the controller's files exist. CO-RE cannot look
 * it up, since the enum in include/linux/cgroup-defs.h has no name. It is the same from Linux 4.4 to
 * 7.3.
 */
#define CSS_VISIBLE (1U << 3)

const volatile __u32 page_size = 4096;
const volatile __u32 counter_max = 0;	/* the offset of max in struct page_counter, from BTF */
const volatile __u32 counter_parent = 0;	/* the offset of parent in it */

/*
 * The code of the items never branches on a number that it has read: the verifier would explore both
 * branches, for each of hundreds of numbers. A condition is a mask instead, which is all ones or 0,
 * and barrier_var() keeps the compiler from turning it into a branch again.
 */

/* Returns all ones if value is negative, otherwise 0. */
static __always_inline __u64 mask_negative(__u64 value)
{
	__u64 mask = (__s64)value >> 63;

	barrier_var(mask);
	return mask;
}

/* Returns all ones if value is 0, otherwise 0. */
static __always_inline __u64 mask_zero(__u64 value)
{
	value |= -value;
	barrier_var(value);
	return ~mask_negative(value);
}

/* Returns a limit in bytes. PAGE_COUNTER_MAX pages, or more, mean that there is no limit. */
static __always_inline __u64 limit_in_bytes(__u64 pages)
{
	__u64 unlimited = ~mask_negative(pages - MEMCG_STATS_UNLIMITED / page_size);

	return ((pages * page_size) & ~unlimited) | (MEMCG_STATS_UNLIMITED & unlimited);
}

/* How many cgroups may be above one that has an effective limit. */
#define MAX_ANCESTORS 127

/*
 * Returns the least limit of the cgroup and its ancestors, or MEMCG_STATS_ABSENT if one could not be
 * read. counter is the cgroup's struct page_counter, each of which leads to the next one up.
 */
static __always_inline __u64 least_limit(void *counter)
{
	__u64 max, lower, least = MEMCG_STATS_UNLIMITED / page_size;
	void *parent;
	__u32 i;

	for (i = 0; i <= MAX_ANCESTORS && counter; i++) {
		if (bpf_probe_read_kernel(&max, sizeof(max), counter + counter_max) ||
		    bpf_probe_read_kernel(&parent, sizeof(parent), counter + counter_parent))
			break;
		lower = mask_negative(max - least);
		least = (max & lower) | (least & ~lower);
		counter = parent;
	}
	return limit_in_bytes(least) | ~mask_zero((__u64)counter);
}

#endif
