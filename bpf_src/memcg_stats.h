/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the BPF programs and user space exchange: the header, the rows and the trailer of a stream, the
 * context of a syscall program, and the tables of terms and blocks, which user space writes before
 * load.
 *
 * Everything is in native byte order. The other side is pymemcgbpf/_wire.py and
 * pymemcgbpf/_bpf/terms.py; tests/unit/bpf/test_drift.py compares the two.
 */
#ifndef MEMCG_STATS_H
#define MEMCG_STATS_H

#define MEMCG_STATS_MAGIC	0x4753434d /* "MCSG" in memory on little endian */
#define MEMCG_STATS_END_MAGIC	0x4553434d /* "MCSE" */
#define MEMCG_STATS_VERSION	1

#define MEMCG_STATS_MAX_ITEMS	512
#define MEMCG_STATS_MAX_TERMS	576
#define MEMCG_STATS_MAX_BLOCKS	24
/* The words of all blocks: enough for all items on a machine with 8 nodes, with any kernel. */
#define MEMCG_STATS_MAX_WORDS	1024

/* The value of a counter that this kernel does not keep. 0 would be a measurement. */
#define MEMCG_STATS_ABSENT	(~0ULL)

/* The value of a limit that is not set, which a file shows as "max". */
#define MEMCG_STATS_UNLIMITED	(~0ULL >> 1)

/*
 * A stream begins with one header. Its items are the project's stable item numbers
 * (pymemcgbpf/_items.py), in the order of a row's values. docs/wire-format.md describes the stream.
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
/*
 * The other bits are a hash of the name, which differs after a cgroup was renamed. They are set only
 * in the map, and only where cgroups can be renamed.
 */
#define MEMCG_STATS_ROW_TAG_SHIFT	1

/* The row of one cgroup. One __u64 for each item follows it. */
struct memcg_stats_row {
	__u64 cgroup_id;
	__u64 parent_id;	/* 0 for the root */
	__u32 level;		/* 0 for the root */
	__u32 flags;		/* MEMCG_STATS_ROW_* */
};

/* A stream ends with one trailer. A stream without it is incomplete. */
struct memcg_stats_trailer {
	__u32 magic;
	__u32 nr_rows;
	__u64 end_ns;		/* CLOCK_MONOTONIC when the walk ended */
};

/*
 * The names of cgroups that a walk writes beside its rows. An array of struct memcg_stats_name
 * follows, and then the text: the names in the same order, each with a NUL at its end.
 */
struct memcg_stats_names {
	__u64 named_id;		/* in: cgroups with this id or a lower one need no name */
	__u64 newest_id;	/* out: the highest id of all, at least named_id */
	__u64 signature;	/* out: a hash of the rows' ids and names, in their order */
	__u32 nr_names;		/* out: the number of names, whether or not they fitted */
	__u32 text_size;	/* out: the bytes of their text, whether or not it fitted */
};

struct memcg_stats_name {
	__u64 cgroup_id;
	__u64 parent_id;
};

#define MEMCG_STATS_NAME_SIZE	256	/* of the longest name, with its NUL; a power of 2 */

/*
 * The context of a syscall program: its arguments and its results. The row of memcg_run_one follows
 * in the same buffer. The rows of memcg_run_tree are in the map.
 */
struct memcg_stats_call {
	__u64 cgroup_id;	/* in: the cgroup, or the root of the walk */
	__u64 program;		/* in: the program_key that the program was loaded with */
	__u32 status;		/* out: enum memcg_stats_status */
	__u32 nr_rows;		/* out: the number of rows, whether or not they fitted into the map */
};

enum memcg_stats_status {
	MEMCG_STATS_NOT_RUN = 0,
	MEMCG_STATS_DONE = 1,
	MEMCG_STATS_GONE = 2,	/* no cgroup of the v2 hierarchy has this id */
	MEMCG_STATS_BUSY = 3,	/* there are too many calls at the same time; the caller tries again */
	MEMCG_STATS_BAD_ORDER = 4,	/* this kernel does not support the order */
	MEMCG_STATS_OTHER = 5,	/* the descriptor's number belongs to another program by now */
	MEMCG_STATS_NOT_OPEN = 6,	/* the directory's descriptor is not that of the cgroup */
	MEMCG_STATS_NOT_VISIBLE = 7,	/* the cgroup was removed, or has no memory.stat */
	MEMCG_STATS_NO_SLOT = 8,	/* there is no slot for this CPU */
	MEMCG_STATS_TOO_DEEP = 9,	/* the tree has more levels than the walk can remember */
	MEMCG_STATS_UNREADABLE = 10,	/* a cgroup's structure could not be read */
};

/*
 * memcg_run_dir has three arguments: a descriptor of the cgroup's directory, the cgroup's id, and the
 * program_key that it was loaded with. It writes into the slot of its CPU in a map: the values, the id,
 * the number of the answer, and words for its own use. It returns that number, or MEMCG_STATS_FAILED
 * with an enum memcg_stats_status.
 *
 * The number consists of the slot's and of one that each answer in the slot increments. It is written
 * first, and user space looks at it last: if it and the id are still the right ones, the values are.
 */
#define MEMCG_STATS_SEQUENCE_BITS	18
#define MEMCG_STATS_FAILED	(1U << 31)

/* Where memcg_run_dir finds what: offsets from the kernel's BTF. */
struct memcg_stats_offsets {
	__u32 task_files;	/* in struct task_struct */
	__u32 files_fdt;	/* in struct files_struct */
	__u32 fdt_max_fds;	/* in struct fdtable */
	__u32 fdt_fd;
	__u32 file_inode;	/* f_inode in struct file */
	__u32 inode_private;	/* i_private in struct inode */
	__u32 inode_sb;		/* i_sb */
	__u32 sb_magic;		/* s_magic in struct super_block */
	__u32 kn_id;		/* in struct kernfs_node */
	__u32 kn_priv;
	__u32 cgroup_kn;	/* in struct cgroup */
	__u32 cgroup_level;
	__u32 cgroup_memory;	/* the element of subsys[] for the memory controller */
	__u32 css_flags;	/* in struct cgroup_subsys_state */
	__u32 memcg_css;	/* css in struct mem_cgroup */
};

/*
 * memcg_walk_dir has the same arguments, and a fourth: 0 to begin a walk, 1 to go on with it. It walks
 * a part of the tree below the cgroup, writes the rows into the map, and returns MEMCG_STATS_MORE if it
 * is to be called again, the number of rows if the walk is over, or MEMCG_STATS_FAILED with an enum
 * memcg_stats_status.
 */
#define MEMCG_STATS_MORE	(1U << 30)

/*
 * Where memcg_walk_dir finds what, besides: offsets from the kernel's BTF. It copies the part of a
 * structure that has all members needed, and the members' offsets count from the beginning of that part.
 */
struct memcg_stats_walk_offsets {
	__u32 cgroup_self;	/* in struct cgroup */
	__u32 css_parent;	/* in struct cgroup_subsys_state */
	__u32 css_sibling;
	__u32 css_children;
	__u32 css_part;		/* the part of struct cgroup_subsys_state */
	__u32 css_part_size;
	__u32 css_part_sibling;
	__u32 css_part_children;
	__u32 css_part_serial;	/* serial_nr */
	__u32 kn_part;		/* the part of struct kernfs_node */
	__u32 kn_part_size;
	__u32 kn_part_name;
	__u32 kn_part_hash;
	__u32 kn_part_id;
};

#define MEMCG_STATS_MAX_PART	256	/* the bytes of the largest part */

/* Where the counters are read. */
enum memcg_stats_backend {
	MEMCG_STATS_BACKEND_KFUNC = 1,
	MEMCG_STATS_BACKEND_RFC = 2,
	MEMCG_STATS_BACKEND_CORE = 3,
};

/* How pending updates are flushed before a cgroup is read. */
enum memcg_stats_flush {
	MEMCG_STATS_FLUSH_NONE = 0,	/* not at all, or by user space */
	MEMCG_STATS_FLUSH_KFUNC = 1,	/* bpf_mem_cgroup_flush_stats */
	MEMCG_STATS_FLUSH_RFC = 2,	/* memcg_flush_stats */
	MEMCG_STATS_FLUSH_RSTAT = 3,	/* cgroup_rstat_flush */
};

/* What a term is, which determines how its value is read. */
enum memcg_stats_kind {
	/* The value is read through a function of the kernel; .counter is the enumerator. */
	MEMCG_STATS_KIND_NODE = 1,	/* enum node_stat_item */
	MEMCG_STATS_KIND_MEMCG = 2,	/* enum memcg_stat_item */
	MEMCG_STATS_KIND_EVENT = 3,	/* enum vm_event_item */
	MEMCG_STATS_KIND_MEMORY_EVENT = 4,	/* enum memcg_memory_event */
	MEMCG_STATS_KIND_USAGE = 5,	/* the memory page counter */
	/*
	 * The value is the least limit on the way to the root; .counter is the offset of the page
	 * counter in struct mem_cgroup.
	 */
	MEMCG_STATS_KIND_LEAST_LIMIT = 6,
	/* The value is a word of a block; .counter is its index among the words. */
	MEMCG_STATS_KIND_WORD = 7,
	MEMCG_STATS_KIND_SIGNED = 8,	/* shown as 0 while it is negative */
	MEMCG_STATS_KIND_LIMIT = 9,	/* PAGE_COUNTER_MAX becomes MEMCG_STATS_UNLIMITED */
	MEMCG_STATS_KIND_NANOSECONDS = 10,	/* shown as microseconds */
};

#define MEMCG_STATS_TERM_LAST		(1U << 0)	/* the last term of its item */
#define MEMCG_STATS_TERM_NOT_ON_ROOT	(1U << 1)	/* the item does not exist on the root */
#define MEMCG_STATS_TERM_AT_LEAST_0	(1U << 2)	/* a negative sum is shown as 0; on the last term */

/* One term. The value of an item is the sum of its terms. */
struct memcg_stats_term {
	__u8 kind;	/* enum memcg_stats_kind */
	__u8 flags;	/* MEMCG_STATS_TERM_* */
	__u16 block;	/* the block that a word is in */
	__u32 counter;
	__u64 unit;	/* the factor from the counter's unit to the item's; it may be negative */
};

enum memcg_stats_start {
	MEMCG_STATS_START_MEMCG = 0,	/* struct mem_cgroup */
	MEMCG_STATS_START_CGROUP = 1,	/* struct cgroup */
};

#define MEMCG_STATS_MAX_STEPS 2

/*
 * Bytes of a kernel structure that are copied at once. The structure is found by following pointers
 * from struct mem_cgroup or struct cgroup. User space reads the offsets from the kernel's BTF.
 */
struct memcg_stats_block {
	__u16 start;		/* enum memcg_stats_start */
	__u16 nr_steps;		/* the number of pointers to follow */
	__u32 steps[MEMCG_STATS_MAX_STEPS];	/* the offset of each pointer in its structure */
	__u32 offset;		/* the offset of the first byte in the last structure */
	__u32 size;		/* the size in bytes, a multiple of 8 */
	__u32 word;		/* the index of the first word that is written */
	__u32 enabled_offset;	/* 1 + the offset of a byte that is 0 if the block is not in use; or 0 */
};

#endif
