/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The map that a walk of a tree fills. */
#ifndef ROW_MAP_BPF_H
#define ROW_MAP_BPF_H

/*
 * The rows of a tree, one in each entry, so that they are adjacent in memory. User space maps them.
 * It sets the size of a row and the number of rows before load.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct memcg_stats_row) + sizeof(__u64));
} rows SEC(".maps");

#endif
