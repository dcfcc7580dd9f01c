// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Publishes the rows of a tree in a map that other processes map into their memory.
 *
 *   tree_stream   an iterator over the map's elements, from which the map is read as a plain file
 *   tree_start    a cgroup iterator that makes the kernel walk the tree at an interval
 *   tree_publish  a syscall program that copies a walk of user space into the map
 *
 * The map is frozen: no system call writes it and nobody maps it for writing, but programs do. There is
 * one writer, either the work that tree_start begins, or the process that runs tree_publish. Walk n
 * goes into half n & 1, while readers read the other half. See pinned_tree.h.
 */
/* Newer versions of <linux/bpf.h> define this structure; the kernel wants it in the object's BTF. */
#define bpf_wq bpf_wq_of_header
#include <linux/bpf.h>
#undef bpf_wq
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "kernel_types.h"
#include "pinned_tree.h"
#include "items.bpf.h"
#include "counters.bpf.h"
#include "row.bpf.h"
#include "css_walk.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* They are the same as in the map's head, but the verifier knows that they do not change. */
const volatile __u32 chunk_size = 1;
const volatile __u32 half_chunks = 0;
const volatile __u32 rows_per_chunk = 1;
const volatile bool with_names = false;
const volatile __u64 root_id = 0;
const volatile __u64 interval_ns = 0;
const volatile __u64 program_key = 0;	/* callers must know it: see struct memcg_tree_walk */
/* Whether this kernel calls the function that sets the callback of a work bpf_wq_set_callback_impl(). */
const volatile bool sets_by_impl = false;

/* The map of pinned_tree.h. User space sets its size before load. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct memcg_tree_head));
} memcg_tree SEC(".maps");

static __always_inline void *chunk_at(__u32 index)
{
	return bpf_map_lookup_elem(&memcg_tree, &index);
}

static __always_inline __u32 chunks_of_rows(__u32 nr_rows)
{
	return nr_rows / rows_per_chunk + !!(nr_rows % rows_per_chunk);
}

/* --- the stream */

struct bpf_iter__bpf_map_elem {
	union {
		struct bpf_iter_meta *meta;
		__u64 : 64;
	} __attribute__((aligned(8)));
	union {
		struct bpf_map *map;
		__u64 : 64;
	} __attribute__((aligned(8)));
	union {
		void *key;
		__u64 : 64;
	} __attribute__((aligned(8)));
	union {
		void *value;
		__u64 : 64;
	} __attribute__((aligned(8)));
};

/*
 * The kernel calls it for each chunk of the map, and in the end with a key of NULL. It writes the head,
 * the chunks that are in use of the half that was published last, and a mark of the end.
 */
SEC("iter/bpf_map_elem")
int tree_stream(struct bpf_iter__bpf_map_elem *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct memcg_tree_head *head = chunk_at(0);
	struct memcg_tree_piece piece = { .index = MEMCG_TREE_END, .size = 0 };
	struct memcg_tree_half *half;
	__u32 *key = ctx->key;
	__u32 at;
	void *chunk;

	if (!head)
		return 0;
	piece.number = *(volatile __u64 *)&head->written;
	if (!key) {
		bpf_seq_write(seq, &piece, sizeof(piece));
		return 0;
	}
	piece.index = *key;
	if (!piece.index) {
		bpf_seq_write(seq, head, sizeof(*head));
		return 0;
	}
	half = &head->halves[piece.number & 1];
	at = piece.index - 1 - (piece.number & 1) * half_chunks;
	if (!piece.number || at >= half_chunks ||
	    (at >= chunks_of_rows(half->nr_rows) && at < half_chunks - half->text_chunks))
		return 0;
	chunk = chunk_at(piece.index);
	if (!chunk)
		return 0;
	piece.size = chunk_size;
	bpf_seq_write(seq, &piece, sizeof(piece));
	bpf_seq_write(seq, chunk, chunk_size);
	return 0;
}

/* --- publishing */

/* Begins to write the next walk, and returns its half. */
static __always_inline struct memcg_tree_half *begin_half(struct memcg_tree_head *head)
{
	__u64 number = head->written + 1;
	struct memcg_tree_half *half = &head->halves[number & 1];

	__sync_lock_test_and_set(&head->writing, number);	/* before all that follows */
	half->number = number;
	return half;
}

/* Publishes the walk that was written. */
static __always_inline void publish_half(struct memcg_tree_head *head)
{
	head->state = MEMCG_TREE_ALIVE;
	__sync_lock_test_and_set(&head->written, head->writing);	/* after all that precedes */
}

static __always_inline void count_walk(struct memcg_tree_head *head, __u64 duration, __u64 due_ns)
{
	head->walks++;
	head->walks_ns += duration;
	head->due_ns = due_ns;
}

/* --- by user space */

/* Bytes to copy from user space. It never changes, so the verifier explores one pass of the loop. */
struct copy {
	__u64 from;
	__u64 size;
	__u32 first;	/* the index of the first chunk to fill */
	__u32 step;	/* from the index of a chunk to that of the next one */
};

static __u32 nr_copied;	/* the chunks that were filled */

static long copy_chunk(__u32 i, void *context)
{
	struct copy *copy = context;
	__u64 at = (__u64)i * chunk_size;
	__u64 size = copy->size - at;
	void *chunk = chunk_at(copy->first + i * copy->step);

	if (size > chunk_size)
		size = chunk_size;
	if (!chunk || bpf_copy_from_user(chunk, size, (void *)(copy->from + at)))
		return 1;
	nr_copied++;
	return 0;
}

/* Copies bytes into the chunks from one on. Returns whether all were copied. */
static __always_inline bool copy_chunks(__u64 from, __u64 size, __u32 first, __u32 step)
{
	struct copy copy = { .from = from, .size = size, .first = first, .step = step };
	__u32 chunks = (size + chunk_size - 1) / chunk_size;

	nr_copied = 0;
	bpf_loop(chunks, copy_chunk, &copy, 0);
	return nr_copied == chunks;
}

/*
 * Copies a walk into the map and publishes it, or only changes the state. It always returns 0; the result
 * is walk->status. One process runs it, one call at a time.
 */
SEC("syscall")
int tree_publish(struct memcg_tree_walk *walk)
{
	struct memcg_tree_head *head = chunk_at(0);
	__u32 nr_rows = walk->nr_rows, text_chunks = walk->text_chunks, first;
	struct memcg_tree_half *half;

	walk->status = MEMCG_STATS_OTHER;
	if (walk->program != program_key || !head)
		return 0;
	count_walk(head, walk->ended_ns - walk->started_ns, walk->due_ns);
	if (walk->state != MEMCG_TREE_ALIVE) {
		head->needed = nr_rows;
		head->state = walk->state;
		walk->status = MEMCG_STATS_DONE;
		return 0;
	}
	walk->status = MEMCG_STATS_UNREADABLE;
	half = begin_half(head);
	first = 1 + (half->number & 1) * half_chunks;
	if ((__u64)chunks_of_rows(nr_rows) + text_chunks > half_chunks ||
	    !copy_chunks(walk->rows, (__u64)nr_rows * header.row_size, first, 1) ||
	    !copy_chunks(walk->text, (__u64)text_chunks * chunk_size, first + half_chunks - 1, -1) ||
	    bpf_copy_from_user(half->root_path, sizeof(half->root_path), (void *)walk->root_path))
		return 0;
	half->started_ns = walk->started_ns;
	half->ended_ns = walk->ended_ns;
	half->signature = walk->signature;
	half->nr_rows = nr_rows;
	half->text_chunks = text_chunks;
	publish_half(head);
	walk->status = MEMCG_STATS_DONE;
	return 0;
}

/* --- by the kernel */

/* The kernel's has the same name and size. */
struct bpf_wq {
	__u64 __opaque[2];
} __attribute__((aligned(8)));

/* Linux 6.10: kernel/bpf/helpers.c */
extern int bpf_wq_init(struct bpf_wq *wq, void *map, unsigned int flags) __ksym __weak;
extern int bpf_wq_start(struct bpf_wq *wq, unsigned int flags) __ksym __weak;
extern int bpf_wq_set_callback_impl(struct bpf_wq *wq, int (*callback)(void *, int *, void *),
				    unsigned int flags, void *aux) __ksym __weak;
/* The same, since Linux 7.0 */
extern int bpf_wq_set_callback(struct bpf_wq *wq, int (*callback)(void *, int *, void *),
			       unsigned int flags) __ksym __weak;

/*
 * What makes the kernel walk. The timer runs until the last file that refers to this map is gone: the pin,
 * and descriptors of privileged processes.
 */
struct clock {
	struct bpf_timer timer;
	struct bpf_wq work;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, struct clock);
} memcg_timer SEC(".maps");

#define MONOTONIC		1	/* CLOCK_MONOTONIC of <linux/time.h> */
#define EBUSY			16	/* <asm/errno.h> */
#define LEAST_PAUSE_NS		500000ULL
#define RETRY_NS		10000000ULL	/* where the kernel had no memory to start the work */
#define PAUSE_PER_WALK		3	/* the time between two walks is at least so many times a walk's */

/*
 * The walk that goes on. There is one at a time, for the next one is begun by a timer that is started
 * when a walk is over. It is kept in memory: if it were in registers, the verifier would explore the loop
 * for each of its values.
 */
static struct {
	__u64 words[MEMCG_STATS_MAX_WORDS];
	__u64 signature;
	__u32 first;		/* the index of the half's first chunk */
	__u32 nr_rows;		/* also those that did not fit */
	__u32 text_chunks;
	__u32 text_size;	/* bytes of text in the last of these */
	__u32 nr_names;		/* names in it */
	bool is_full;		/* there was a row or a name that did not fit */
} walk;

/* Returns the place of a row, or NULL if there is none. */
static __always_inline struct memcg_stats_row *place_of_row(__u32 row)
{
	__u32 chunk = row / rows_per_chunk;
	__u32 at = row % rows_per_chunk * header.row_size;
	void *start;

	if (walk.is_full || chunk + walk.text_chunks >= half_chunks || at > chunk_size - header.row_size)
		return NULL;
	start = chunk_at(walk.first + chunk);
	return start ? start + at : NULL;
}

/* Begins another chunk of names. Returns NULL if there is none. */
static __always_inline struct memcg_tree_text *begin_text(void)
{
	if (chunks_of_rows(walk.nr_rows) + walk.text_chunks >= half_chunks)
		return NULL;
	walk.text_chunks++;
	walk.text_size = 0;
	walk.nr_names = 0;
	return chunk_at(walk.first + half_chunks - walk.text_chunks);
}

/* Adds a name. Returns whether it fitted. */
static __always_inline bool add_name(const char **place)
{
	struct memcg_tree_text *text;
	__u32 at = walk.text_size;
	long length;
	char *name;

	if (!walk.text_chunks || at > chunk_size - sizeof(*text) - MEMCG_STATS_NAME_SIZE) {
		text = begin_text();
		at = 0;
	} else {
		text = chunk_at(walk.first + half_chunks - walk.text_chunks);
	}
	barrier_var(at);
	if (!text || at > chunk_size - sizeof(*text) - MEMCG_STATS_NAME_SIZE)
		return false;
	name = (void *)(text + 1) + at;
	length = copy_name(name, place);
	if (length < 1) {
		name[0] = 0;
		length = 1;
	}
	walk.text_size = text->size = at + length;
	walk.nr_names = text->nr_names = walk.nr_names + 1;
	return true;
}

/* Adds a cgroup's row and name, or only counts it if there is no room left. */
static __always_inline void add_cgroup(struct cgroup_subsys_state *css)
{
	struct cgroup *cgrp = css->cgroup;
	struct memcg_stats_row *row;

	if (max_level != ~0U && (__u32)cgrp->self.cgroup->level > max_level)
		return;
	row = place_of_row(walk.nr_rows);
	if (!(row ? fill_row(cgrp, css, walk.words, row) : has_row(cgrp)))
		return;
	walk.nr_rows++;
	if (row)
		walk.signature = hashed(walk.signature, row->cgroup_id);
	if (!row || (with_names && !add_name(&cgrp->self.cgroup->kn->name)))
		walk.is_full = true;
}

/* Walks the tree, and publishes the walk if all of it had room. Returns whether the root is still there. */
static __always_inline bool walk_tree(struct memcg_tree_head *head, __u64 started_ns)
{
	struct cgroup *root = bpf_cgroup_from_id(root_id);
	struct cgroup_subsys_state *css;
	struct memcg_tree_half *half;
	struct bpf_iter_css it;

	if (!root)
		return false;
	flush_subtree(root);
	half = begin_half(head);
	walk.first = 1 + (half->number & 1) * half_chunks;
	walk.signature = 0;
	walk.nr_rows = 0;
	walk.text_chunks = 0;
	walk.text_size = 0;
	walk.is_full = false;
	bpf_rcu_read_lock();
	bpf_iter_css_new(&it, &root->self, header.order);
	while ((css = bpf_iter_css_next(&it)))
		add_cgroup(css);
	bpf_iter_css_destroy(&it);
	bpf_rcu_read_unlock();
	bpf_cgroup_release(root);
	if (walk.is_full) {
		head->needed = walk.nr_rows;
		head->state = MEMCG_TREE_TOO_LARGE;
		return true;
	}
	half->started_ns = started_ns;
	half->ended_ns = bpf_ktime_get_ns();
	half->signature = walk.signature;
	half->nr_rows = walk.nr_rows;
	half->text_chunks = walk.text_chunks;
	publish_half(head);
	return true;
}

/*
 * The work: one walk. Then it sets the timer for the next one. If walks take long, then they follow each
 * other more slowly.
 */
static int refresh(void *map, int *key, void *value)
{
	__u64 started_ns = bpf_ktime_get_ns(), duration, pause;
	struct memcg_tree_head *head = chunk_at(0);
	struct clock *clock;
	int zero = 0;

	clock = bpf_map_lookup_elem(&memcg_timer, &zero);
	if (!head || !clock)
		return 0;
	if (!walk_tree(head, started_ns)) {
		head->state = MEMCG_TREE_REMOVED;
		return 0;
	}
	duration = bpf_ktime_get_ns() - started_ns;
	pause = interval_ns > duration ? interval_ns - duration : 0;
	if (pause < PAUSE_PER_WALK * duration)
		pause = PAUSE_PER_WALK * duration;
	if (pause < LEAST_PAUSE_NS)
		pause = LEAST_PAUSE_NS;
	count_walk(head, duration, started_ns + duration + pause);
	bpf_timer_start(&clock->timer, pause, 0);
	return 0;
}

/* The timer cannot sleep, but a flush may: so it starts the work. */
static int on_time(void *map, int *key, struct clock *clock)
{
	if (bpf_wq_start(&clock->work, 0))
		bpf_timer_start(&clock->timer, RETRY_NS, 0);
	return 0;
}

static __always_inline int set_work(struct bpf_wq *work)
{
	if (sets_by_impl)
		return bpf_wq_set_callback_impl(work, refresh, 0, NULL);
	return bpf_wq_set_callback(work, refresh, 0);
}

/* Something may be there already, from an attempt that has failed later. */
static __always_inline long made(long err)
{
	return err == -EBUSY ? 0 : err;
}

/*
 * Starts the timer. It is an iterator's program, because those may call all functions that the work calls.
 * The iterator's output is the first error, or 0. After -ENOMEM it may be tried again.
 */
SEC("iter.s/cgroup")
int tree_start(struct bpf_iter__cgroup *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct clock *clock;
	int zero = 0;
	long err;

	clock = bpf_map_lookup_elem(&memcg_timer, &zero);
	if (!ctx->cgroup || !clock)
		return 0;
	err = made(bpf_timer_init(&clock->timer, &memcg_timer, MONOTONIC));
	if (!err)
		err = bpf_timer_set_callback(&clock->timer, on_time);
	if (!err)
		err = made(bpf_wq_init(&clock->work, &memcg_timer, 0));
	if (!err)
		err = set_work(&clock->work);
	if (!err)
		err = bpf_timer_start(&clock->timer, 0, 0);
	bpf_seq_write(seq, &err, sizeof(err));
	return 0;
}
