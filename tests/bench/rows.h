/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The values of a tree that are compared: the number of cgroups, and the sum of each item. */
#ifndef ROWS_H
#define ROWS_H

#include <stdio.h>

#include "memcg_stats.h"

static inline void print_sums(unsigned long count, const unsigned long long *sums, int nr_items)
{
	int i;

	printf("%lu ", count);
	for (i = 0; i < nr_items; i++)
		printf("%llu ", sums[i]);
	printf("\n");
}

/* An item that a cgroup does not have adds nothing. */
static inline void add_values(unsigned long long *sums, const __u64 *values, int nr_items)
{
	int i;

	for (i = 0; i < nr_items; i++)
		if (values[i] != MEMCG_STATS_ABSENT)
			sums[i] += values[i];
}

#endif
