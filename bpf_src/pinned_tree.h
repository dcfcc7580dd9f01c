/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The map of a pinned tree, which readers map into their memory, and the stream, which gives the same as
 * a plain file. docs/pins.md describes both for readers in other languages.
 *
 * Everything is in native byte order. The other side is pymemcgbpf/_pins/tree_layout.py;
 * tests/unit/pins/test_tree_drift.py compares the two.
 */
#ifndef PINNED_TREE_H
#define PINNED_TREE_H

#include "memcg_stats.h"

#define MEMCG_TREE_MAGIC	0x5453434d /* "MCST" in memory on little endian */
#define MEMCG_TREE_VERSION	1
#define MEMCG_TREE_PATH_SIZE	4096

/*
 * The map is an array of chunks of equal size, which are adjacent in memory. Chunk 0 begins with struct
 * memcg_tree_head. Then come two halves of half_chunks chunks each: walk number n is in half n & 1.
 *
 * The rows of a walk fill the chunks of its half from the first one on, rows_per_chunk in each: struct
 * memcg_stats_row and one __u64 for each item. The names fill text_chunks chunks from the last one down.
 */

enum memcg_tree_state {
	MEMCG_TREE_NEW = 0,	/* there was no walk yet */
	MEMCG_TREE_ALIVE = 1,
	MEMCG_TREE_REMOVED = 2,	/* the root of the walk was removed; no further walk follows */
	MEMCG_TREE_TOO_LARGE = 3,	/* the last walk met more than there is room for */
	MEMCG_TREE_ENDED = 4,	/* whoever refreshed it has closed it */
};

#define MEMCG_TREE_BY_KERNEL	(1U << 0)	/* the kernel itself refreshes it */
#define MEMCG_TREE_HAS_NAMES	(1U << 1)
#define MEMCG_TREE_FLUSHES	(1U << 2)	/* pending updates are flushed before each walk */
#define MEMCG_TREE_CAN_RENAME	(1U << 3)	/* cgroups can be renamed: on cgroup v1 */

/* What is in one half. It is valid while head.writing is below number + 2. */
struct memcg_tree_half {
	__u64 number;		/* of the walk; the first one is number 1 */
	__u64 started_ns;	/* CLOCK_MONOTONIC when the flush and the walk began */
	__u64 ended_ns;
	__u64 signature;	/* the same if the rows are of the same cgroups with the same names */
	__u32 nr_rows;
	__u32 text_chunks;	/* how many chunks of names there are; 0 without names */
	char root_path[MEMCG_TREE_PATH_SIZE];	/* of the walk's root, with a NUL; "" without names */
};

struct memcg_tree_head {
	/* These never change. */
	__u32 magic;
	__u16 version;
	__u16 head_size;	/* bytes of this structure */
	__u32 chunk_size;	/* bytes of a chunk */
	__u32 half_chunks;	/* chunks of a half */
	__u32 row_size;		/* bytes of a row, its values included */
	__u32 rows_per_chunk;
	__u16 nr_items;
	__u16 order;		/* BPF_CGROUP_ITER_* */
	__u32 max_depth;	/* how many levels below the root have rows; ~0 for all */
	__u32 flags;		/* MEMCG_TREE_* */
	__u32 room;		/* how many cgroups with names of usual length fit */
	__u64 root_id;		/* the cgroup's id of the walk's root */
	__u64 interval_ns;	/* the time between the beginnings of two walks; 0 for no interval */
	__u16 items[MEMCG_STATS_MAX_ITEMS];	/* the project's item numbers, nr_items of them */
	/* These change with each walk. */
	__u64 writing;		/* the number of the walk that is being written, or the last one */
	__u64 written;		/* the number of the last complete walk; 0 for none */
	__u64 due_ns;		/* CLOCK_MONOTONIC when the next walk begins, or a little later */
	__u64 walks;		/* how many walks there were, also those that did not fit */
	__u64 walks_ns;		/* how long all of them took */
	__u32 state;		/* enum memcg_tree_state */
	__u32 needed;		/* the rows of the last walk, if it did not fit */
	struct memcg_tree_half halves[2];
};

/*
 * A chunk of names. The names are in the order of the rows, each with a NUL at its end, and no name is
 * in two chunks. The first chunk is the last one of its half, and the second is before it in memory.
 */
struct memcg_tree_text {
	__u32 size;		/* bytes of the text that follows */
	__u32 nr_names;		/* names in it */
};

/*
 * The stream has struct memcg_tree_head in the beginning. Then each used chunk of the half that was
 * published last follows, with this structure before it, in the order of their indexes. In the end, this
 * structure comes with index ~0. If the numbers are not all the same, or a chunk is missing, a walk was
 * published meanwhile: read again.
 */
struct memcg_tree_piece {
	__u64 number;		/* of the walk */
	__u32 index;		/* of the chunk in the map */
	__u32 size;		/* bytes that follow */
};

#define MEMCG_TREE_END	(~0U)

/* The context of tree_publish: the addresses of a walk in user space. */
struct memcg_tree_walk {
	__u64 program;		/* in: the program_key that the program was loaded with */
	__u64 rows;		/* in: the address of the rows, which are adjacent */
	__u64 text;		/* in: the address of whole chunks of names, the first one first */
	__u64 root_path;	/* in: the address of MEMCG_TREE_PATH_SIZE bytes */
	__u64 started_ns;	/* in */
	__u64 ended_ns;		/* in */
	__u64 due_ns;		/* in */
	__u64 signature;	/* in */
	__u32 nr_rows;		/* in */
	__u32 text_chunks;	/* in */
	__u32 state;		/* in: enum memcg_tree_state; only MEMCG_TREE_ALIVE comes with a walk */
	__u32 status;		/* out: enum memcg_stats_status */
};

#endif
