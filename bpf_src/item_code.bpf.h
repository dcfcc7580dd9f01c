/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Computes the items of one cgroup by instructions that user space writes for just these items.
 */
#ifndef ITEM_CODE_BPF_H
#define ITEM_CODE_BPF_H

#include "limits.bpf.h"

const volatile __u32 limit_value = 0;	/* 1 + the index of the value that is the least limit; or 0 */
const volatile __u32 limit_counter = 0;	/* the offset of its page counter in struct mem_cgroup */
const volatile bool asks_on_root = false;	/* whether compute_items() looks at on_root */

/*
 * Copies words from the cgroup's structures, and computes a value for each item, or
 * MEMCG_STATS_ABSENT. The memory for both is large enough. on_root is all ones for the root of a
 * hierarchy, otherwise 0.
 *
 * User space writes its instructions before load (pymemcgbpf/_bpf/item_code.py). For that, it is the
 * last function of its section: COMPUTE_ITEMS comes at the end of the file.
 */
__hidden int compute_items(void *memcg, void *cgrp, __u64 *words, __u64 *values, __u64 on_root);

#define COMPUTE_ITEMS									\
	__hidden __noinline								\
	int compute_items(void *memcg, void *cgrp, __u64 *words, __u64 *values,	\
			  __u64 on_root)						\
	{										\
		asm volatile("" : : "r"(memcg), "r"(cgrp), "r"(words), "r"(values),	\
			     "r"(on_root) : "memory");					\
		return 0;								\
	}

/* Fills values[] for one cgroup. There is room for nr_items values and for all words. */
static __always_inline void fill_values(void *memcg, void *cgrp, __u64 *words, __u64 *values,
					__u32 nr_items, __u64 on_root)
{
	__u32 at = limit_value;

	if (at && at <= nr_items)
		values[at - 1] = least_limit(memcg + limit_counter);
	compute_items(memcg, cgrp, words, values, on_root);
}

#endif
