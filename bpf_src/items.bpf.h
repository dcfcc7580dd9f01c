/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Computes the items of one cgroup from words of the kernel's memory, by tables of blocks and terms that
 * user space writes before load.
 *
 * The file that includes it defines function_value() and effective_limit(), and fills in struct
 * counters.
 */
#ifndef ITEMS_BPF_H
#define ITEMS_BPF_H

#include "limits.bpf.h"

const volatile __u32 nr_blocks = 0;
const volatile struct memcg_stats_block blocks[MEMCG_STATS_MAX_BLOCKS] = {};
const volatile __u32 nr_terms = 0;
const volatile struct memcg_stats_term terms[MEMCG_STATS_MAX_TERMS] = {};

struct counters {
	struct cgroup *cgrp;
	struct mem_cgroup *memcg;	/* a reference with the backend kfunc, else for probe reads only */
	__u64 *words;			/* has room for the words of all blocks */
	__u64 missing;			/* one bit for each block that could not be copied */
	__u64 on_root;			/* all ones for the root of a hierarchy, otherwise 0 */
};

/* Returns what least_limit() returns for the page counter at an offset in struct mem_cgroup. */
static __always_inline __u64 effective_limit(const struct counters *c, __u32 offset);

/* Returns what the kernel's function for this kind of counter returns, or MEMCG_STATS_ABSENT. */
static __always_inline __u64 function_value(const struct counters *c, __u32 kind, __u32 index);

/*
 * Copies a block to its place among the words. Returns 0, or all ones if the block does not exist or
 * could not be read.
 */
static __always_inline __u64 copy_block(const volatile struct memcg_stats_block *block,
					const struct counters *c)
{
	__u32 step, size = block->size, word = block->word;
	__u32 enabled_offset = block->enabled_offset;
	void *from = c->memcg;
	__u64 missing = 0;
	__u8 enabled = 0;

	if (word >= MEMCG_STATS_MAX_WORDS || size > (MEMCG_STATS_MAX_WORDS - word) * sizeof(__u64))
		return ~0ULL;
	if (block->start == MEMCG_STATS_START_CGROUP)
		from = c->cgrp;
	/* If a pointer is NULL, the next read fails and leaves NULL, and so does the last read. */
	for (step = 0; step < MEMCG_STATS_MAX_STEPS; step++) {
		void *next = NULL;

		if (step >= block->nr_steps)
			break;
		bpf_probe_read_kernel(&next, sizeof(next), from + block->steps[step]);
		from = next;
	}
	if (enabled_offset) {
		bpf_probe_read_kernel(&enabled, sizeof(enabled), from + (enabled_offset - 1));
		missing = mask_zero(enabled);
	}
	return missing |
	       mask_negative(bpf_probe_read_kernel(c->words + word, size, from + block->offset));
}

/* Copies all blocks into c->words, and notes in c->missing those that could not be copied. */
static __always_inline void copy_blocks(struct counters *c)
{
	__u32 i;

	for (i = 0; i < MEMCG_STATS_MAX_BLOCKS; i++) {
		if (i >= nr_blocks)
			break;
		c->missing |= copy_block(&blocks[i], c) & (1ULL << i);
	}
}

/* Returns the value of a copied word, or MEMCG_STATS_ABSENT if its block is missing. */
static __always_inline __u64 word_value(const struct counters *c, __u32 kind, __u32 index,
					__u32 block)
{
	/* absent is all ones, which is MEMCG_STATS_ABSENT, or 0. */
	__u64 value, absent = -(c->missing >> (block & 63) & 1);

	if (index >= MEMCG_STATS_MAX_WORDS)
		return MEMCG_STATS_ABSENT;
	value = c->words[index];
	switch (kind) {
	case MEMCG_STATS_KIND_WORD:
		break;
	case MEMCG_STATS_KIND_SIGNED:
		/* Updates of several CPUs may not all have arrived yet. memory.stat shows 0, too. */
		value &= ~mask_negative(value);
		break;
	case MEMCG_STATS_KIND_LIMIT:
		value = limit_in_bytes(value);
		break;
	case MEMCG_STATS_KIND_NANOSECONDS:
		value /= 1000;
		break;
	default:
		return MEMCG_STATS_ABSENT;
	}
	return value | absent;
}

/* Returns the value of term i, or MEMCG_STATS_ABSENT. */
static __always_inline __u64 term_value(const struct counters *c, __u32 i)
{
	__u32 kind = terms[i].kind, index = terms[i].counter;

	if (kind >= MEMCG_STATS_KIND_WORD)
		return word_value(c, kind, index, terms[i].block);
	if (kind == MEMCG_STATS_KIND_LEAST_LIMIT)
		return effective_limit(c, index);
	return function_value(c, kind, index);
}

/*
 * Copies the blocks, and sums the terms into one value for each item. values[] must have room for
 * nr_items values. A value is MEMCG_STATS_ABSENT if one of its terms is.
 */
static __always_inline void fill_values(struct counters *c, __u64 *values, __u32 nr_items)
{
	__u64 sum = 0, absent = 0, value;
	__u32 i, item = 0;

	copy_blocks(c);
	for (i = 0; i < MEMCG_STATS_MAX_TERMS; i++) {
		if (i >= nr_terms)
			break;
		value = term_value(c, i);
		absent |= mask_zero(~value);
		if (terms[i].flags & MEMCG_STATS_TERM_NOT_ON_ROOT)
			absent |= c->on_root;
		sum += value * terms[i].unit;

		if (terms[i].flags & MEMCG_STATS_TERM_LAST) {
			if (item >= nr_items || item >= MEMCG_STATS_MAX_ITEMS)
				break;
			if (terms[i].flags & MEMCG_STATS_TERM_AT_LEAST_0)
				sum &= ~mask_negative(sum);
			values[item++] = sum | absent;
			sum = absent = 0;
		}
	}
}

#endif
