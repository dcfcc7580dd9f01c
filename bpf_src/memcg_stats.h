/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What crosses from the kernel to the reader: the stream's header, its rows and
 * its trailer, and the tables of terms and blocks that user space writes before load.
 *
 * Native byte order throughout. pymemcgbpf/_wire.py and pymemcgbpf/program.py are
 * the other side; tests/unit/test_wire.py holds the two against each other.
 */
#ifndef MEMCG_STATS_H
#define MEMCG_STATS_H

#define MEMCG_STATS_MAGIC	0x4753434d /* "MCSG" in memory on little endian */
#define MEMCG_STATS_END_MAGIC	0x4553434d /* "MCSE" */
#define MEMCG_STATS_VERSION	1

#define MEMCG_STATS_MAX_ITEMS	512
#define MEMCG_STATS_MAX_TERMS	576
#define MEMCG_STATS_MAX_BLOCKS	24

/* A value that this kernel does not keep. Never 0, which is a measurement. */
#define MEMCG_STATS_ABSENT	(~0ULL)

/* A limit that is not set: what a file shows as "max". */
#define MEMCG_STATS_UNLIMITED	(~0ULL >> 1)

/*
 * Once, before the first row, if any. The items are the project's own stable numbers
 * (pymemcgbpf/_items.py), in the order of a row's values. docs/wire-format.md tells it all.
 */
struct memcg_stats_header {
	__u32 magic;
	__u16 version;
	__u16 header_size;	/* bytes from the start to the first row */
	__u32 row_size;		/* bytes of one row, its values included */
	__u16 nr_items;
	__u16 order;		/* BPF_CGROUP_ITER_* */
	__u16 items[MEMCG_STATS_MAX_ITEMS];
};

#define MEMCG_STATS_ROW_ROOT	(1U << 0)	/* the root of its hierarchy */

/* One cgroup. Followed by one __u64 per item. */
struct memcg_stats_row {
	__u64 cgroup_id;
	__u64 parent_id;	/* 0 for the root */
	__u32 level;		/* 0 for the root */
	__u32 flags;		/* MEMCG_STATS_ROW_* */
};

/* Once, after the last row: a stream without it is cut short. */
struct memcg_stats_trailer {
	__u32 magic;
	__u32 nr_rows;
	__u64 end_ns;		/* CLOCK_MONOTONIC when the walk ended */
};

/*
 * What a syscall program is called with, and what it answers. For one cgroup its row
 * follows, in the same buffer; the rows of a tree are in the map.
 */
struct memcg_stats_call {
	__u64 cgroup_id;	/* in: the walk's root */
	__u64 program;		/* in: the key that this very program was loaded with */
	__u32 status;		/* out: enum memcg_stats_status */
	__u32 nr_rows;		/* out: found, whether or not they fitted into the map */
};

enum memcg_stats_status {
	MEMCG_STATS_NOT_RUN = 0,
	MEMCG_STATS_DONE = 1,
	MEMCG_STATS_GONE = 2,	/* no cgroup of the v2 hierarchy has this id */
	MEMCG_STATS_BUSY = 3,	/* too many calls at once: call again */
	MEMCG_STATS_BAD_ORDER = 4,	/* this kernel does not walk in it */
	MEMCG_STATS_OTHER = 5,	/* another program has that descriptor's number by now */
};

/* Where the numbers come from. */
enum memcg_stats_backend {
	MEMCG_STATS_BACKEND_KFUNC = 1,
	MEMCG_STATS_BACKEND_RFC = 2,
	MEMCG_STATS_BACKEND_CORE = 3,
};

/* How pending updates are brought up to the cgroup before it is read. */
enum memcg_stats_flush {
	MEMCG_STATS_FLUSH_NONE = 0,	/* not at all, or by user space */
	MEMCG_STATS_FLUSH_KFUNC = 1,	/* bpf_mem_cgroup_flush_stats */
	MEMCG_STATS_FLUSH_RFC = 2,	/* memcg_flush_stats */
	MEMCG_STATS_FLUSH_RSTAT = 3,	/* cgroup_rstat_flush */
};

/* What a term is, and so how its value comes about. */
enum memcg_stats_kind {
	/* The kernel's own functions are asked; .counter is the enumerator. */
	MEMCG_STATS_KIND_NODE = 1,	/* enum node_stat_item */
	MEMCG_STATS_KIND_MEMCG = 2,	/* enum memcg_stat_item */
	MEMCG_STATS_KIND_EVENT = 3,	/* enum vm_event_item */
	MEMCG_STATS_KIND_MEMORY_EVENT = 4,	/* enum memcg_memory_event */
	MEMCG_STATS_KIND_USAGE = 5,	/* the memory page counter */
	/* A word that was copied from the kernel's memory; .counter is which. */
	MEMCG_STATS_KIND_WORD = 6,
	MEMCG_STATS_KIND_SIGNED = 7,	/* shown as 0 while it is negative */
	MEMCG_STATS_KIND_LIMIT = 8,	/* PAGE_COUNTER_MAX becomes MEMCG_STATS_UNLIMITED */
	MEMCG_STATS_KIND_NANOSECONDS = 9,	/* shown as microseconds */
};

#define MEMCG_STATS_TERM_LAST		(1U << 0)	/* it closes its item */
#define MEMCG_STATS_TERM_NOT_ON_ROOT	(1U << 1)	/* the kernel shows none there */

/* One counter. An item is the sum of its terms. */
struct memcg_stats_term {
	__u8 kind;	/* enum memcg_stats_kind */
	__u8 flags;	/* MEMCG_STATS_TERM_* */
	__u16 block;	/* where a word is from */
	__u32 counter;
	__u64 unit;	/* factor from the counter to the item's unit */
};

enum memcg_stats_start {
	MEMCG_STATS_START_MEMCG = 0,	/* struct mem_cgroup */
	MEMCG_STATS_START_CGROUP = 1,	/* struct cgroup */
};

#define MEMCG_STATS_MAX_STEPS 2

/*
 * Bytes of a kernel structure that are copied in one go, found from struct mem_cgroup or
 * struct cgroup by following pointers. User space has the offsets from the kernel's BTF.
 */
struct memcg_stats_block {
	__u16 start;		/* enum memcg_stats_start */
	__u16 nr_steps;		/* how many pointers are followed */
	__u32 steps[MEMCG_STATS_MAX_STEPS];	/* where they are, each in its structure */
	__u32 offset;		/* of the first byte, in the last structure */
	__u32 size;		/* in bytes, a multiple of 8 */
	__u32 word;		/* where it goes among the words */
	__u32 guard;		/* 1 + the offset of a byte without which there is no such block */
};

#endif
