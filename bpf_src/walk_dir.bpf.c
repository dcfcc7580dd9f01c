// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Reads a tree of cgroups, on cgroup v1 and v2, from Linux 5.10 on, without cgroup_mutex.
 *
 * It is a raw tracepoint's program that is never attached: bpf(BPF_PROG_RUN) runs it in the task of
 * the caller, under rcu_read_lock() and with preemption disabled. It finds the root of the walk by the
 * caller's open directory, and follows the lists of children, as css_next_child() in
 * kernel/cgroup/cgroup.c does.
 *
 * No other task runs on the CPU meanwhile. So a call ends after longest_ns, and user space calls again
 * until the walk is over. In between, every cgroup that is not pinned otherwise may be freed. What the
 * walk remembers is therefore checked before it is used again: see is_listed().
 *
 * A function that is not static is verified once, by itself, and a call of it costs the verifier one
 * instruction. So the loops here are longer than the verifier could follow, without bpf_loop(), which
 * Linux 5.17 brought. Such a function takes numbers only, so the cgroups are in a global variable.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>

#include "memcg_stats.h"
#include "item_code.bpf.h"
#include "open_dir.bpf.h"
#include "names.bpf.h"
#include "row_map.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct memcg_stats_walk_offsets walk_offsets = {};
const volatile __u64 program_key = 0;	/* callers must know it */
const volatile __u32 nr_items = 0;
const volatile __u32 order = 0;		/* BPF_CGROUP_ITER_* */
const volatile __u32 max_depth = ~0U;	/* how many levels the walk goes down */
const volatile __u64 longest_ns = 1000000;	/* a call ends soon after this */
const volatile __u32 steps_at_once = 64;	/* how often it looks at the clock; at most MAX_STEPS */
const volatile bool searches = false;	/* for tests: see is_still_there() */

#define MAX_STEPS 64	/* of one call of take_steps() */
#define MAX_TURNS 32	/* calls of take_steps() in one call of take_turns(), and of those in the program */
#define MAX_LOOKS 64	/* at links, at once */
#define MAX_LEVELS 1024	/* how deep the walk goes; a power of 2 */
#define LEVELS_AT_ONCE 32	/* in one call of first_lost(); a divisor of MAX_LEVELS */

/* include/uapi/linux/bpf.h, since Linux 7.0 */
#define ITER_CHILDREN 5

/*
 * A flag in cgroup_subsys_state.flags: it is about to leave its parent's list, or has left it. Like
 * CSS_VISIBLE, it is the same from Linux 4.4 to 7.3.
 */
#define CSS_RELEASED (1U << 2)

/* A cgroup on the way from the root of the walk to where it is. */
struct place {
	void *cgrp;
	__u64 serial_nr;	/* siblings have it in the order of their list; no two cgroups have the same */
	__u64 id;
};

enum phase {
	DOWN,	/* The cgroup was just reached. */
	UP,	/* Its children are done. */
	SEARCH,	/* It is looked for the first sibling with a serial number above walk.after. */
};

/*
 * The walk. Each loaded program belongs to one reader, which runs one walk at a time.
 */
static struct {
	__u64 words[MEMCG_STATS_MAX_WORDS];
	char long_name[MEMCG_STATS_NAME_SIZE];	/* a name that does not fit into the map */
	__u64 part[MEMCG_STATS_MAX_PART / sizeof(__u64)];	/* of a structure */
	/* The cgroup that was read last: the list of its siblings, that of its children, and more. */
	void *sibling;
	void *children;
	__u64 serial_nr;
	void *memory;		/* its css of the memory controller */
	void *kn;		/* its kernfs_node */
	__u64 name;		/* the address of its name, if cgroups can be renamed */
	__u32 name_hash;
	__u64 above_id;		/* the id of the parent of the root of the walk */
	struct names_state names;
	void *above;		/* the next cgroup above the root of the walk whose name is signed */
	__u64 after;
	void *link;		/* in a list of children */
	__u32 nr_rows;
	__u32 root_level;
	__u32 phase;		/* enum phase */
	__u32 depth;		/* the cgroup where the walk is, in the path */
	struct place path[MAX_LEVELS];
} walk;

/* What a step results in: 0 to go on, or the result of the program. */
#define GO_ON	0
#define OVER	1	/* there are no more cgroups */
#define PAUSE	2	/* the time is up */
#define FAILED(status) (MEMCG_STATS_FAILED | (status))

static __always_inline struct place *place_at(__u32 depth)
{
	return &walk.path[depth & (MAX_LEVELS - 1)];
}

/* These return members of the part that was copied last. */
static __always_inline __u64 part_u64(__u32 offset)
{
	return *(__u64 *)((void *)walk.part + (offset & (MEMCG_STATS_MAX_PART - 8)));
}

static __always_inline __u32 part_u32(__u32 offset)
{
	return *(__u32 *)((void *)walk.part + (offset & (MEMCG_STATS_MAX_PART - 4)));
}

/* Copies a part of a structure. Returns false if it cannot be read. */
static __always_inline bool copy_part(void *structure, __u32 offset, __u32 size)
{
	return size <= sizeof(walk.part) && !bpf_probe_read_kernel(walk.part, size, structure + offset);
}

/* Reads the cgroup's own css. Returns false if it cannot be read. */
static __always_inline bool read_css(void *cgrp)
{
	void *css = cgrp + walk_offsets.cgroup_self;

	if (word_type) {
		walk.sibling = pointer_at(css, walk_offsets.css_sibling);
		walk.children = pointer_at(css, walk_offsets.css_children);
		walk.serial_nr = u64_at(css, walk_offsets.css_part + walk_offsets.css_part_serial);
		return walk.children;	/* not even an empty list has NULL here */
	}
	if (!copy_part(css, walk_offsets.css_part, walk_offsets.css_part_size))
		return false;
	walk.sibling = (void *)part_u64(walk_offsets.css_part_sibling);
	walk.children = (void *)part_u64(walk_offsets.css_part_children);
	walk.serial_nr = part_u64(walk_offsets.css_part_serial);
	return true;
}

/*
 * Reads the cgroup's css, and where its kernfs_node and its memory controller are. A large tree is not in
 * the CPU's caches; one after the other, these reads wait for memory at the same time.
 */
static __always_inline bool read_cgroup(void *cgrp)
{
	bool found = read_css(cgrp);

	walk.kn = pointer_at(cgrp, offsets.cgroup_kn);
	walk.memory = pointer_at(cgrp, offsets.cgroup_memory);
	return found;
}

/*
 * Reads the kernfs_node of the cgroup that was read last. Returns the id of the cgroup, or 0 if it has none
 * yet.
 */
static __always_inline __u64 read_kn(void)
{
	if (word_type || !can_rename) {
		if (can_rename) {
			walk.name = u64_at(walk.kn, walk_offsets.kn_part + walk_offsets.kn_part_name);
			walk.name_hash = u32_at(walk.kn,
						walk_offsets.kn_part + walk_offsets.kn_part_hash);
		}
		return u64_at(walk.kn, offsets.kn_id);
	}
	if (!copy_part(walk.kn, walk_offsets.kn_part, walk_offsets.kn_part_size))
		return 0;
	walk.name = part_u64(walk_offsets.kn_part_name);
	walk.name_hash = part_u32(walk_offsets.kn_part_hash);
	return part_u64(walk_offsets.kn_part_id);
}

/* Returns the flags of a row, for the cgroup whose kernfs_node was read last. */
static __always_inline __u32 tag_of_kn(void)
{
	return can_rename ? tag_of_name((const char *)walk.name, walk.name_hash) : 0;
}

/* Returns the parent of a cgroup, or NULL. */
static __always_inline void *parent_of(void *cgrp)
{
	void *css = pointer_at(cgrp, walk_offsets.cgroup_self + walk_offsets.css_parent);

	return css ? css - walk_offsets.cgroup_self : NULL;
}

/*
 * Adds the row and the name of the cgroup where the walk is to the maps, or only counts them if the
 * maps are full. It must have been read last, and its kernfs_node. A cgroup without memory.stat has no row.
 */
__noinline __u64 add_row(void)
{
	__u32 depth = walk.depth, index = walk.nr_rows, tag = tag_of_kn();
	struct place *place = place_at(depth);
	__u64 parent_id = depth ? place_at(depth - 1)->id : walk.above_id;
	__u32 level = walk.root_level + depth;
	struct memcg_stats_row *row;
	void *css;

	css = walk.memory;
	if (!css || !(u32_at(css, offsets.css_flags) & CSS_VISIBLE))
		return GO_ON;
	walk.nr_rows = index + 1;
	row = bpf_map_lookup_elem(&rows, &index);
	if (row && nr_items <= MEMCG_STATS_MAX_ITEMS) {
		row->cgroup_id = place->id;
		row->parent_id = parent_id;
		row->level = level;
		row->flags = tag | (parent_id ? 0 : MEMCG_STATS_ROW_ROOT);
		fill_values(css - offsets.memcg_css, place->cgrp, walk.words, (__u64 *)(row + 1),
			    nr_items, mask_zero(level));
	}
	if (nr_names_fit && wants_name(&walk.names, place->id, row))
		write_name(place->id, parent_id,
			   walk.kn + walk_offsets.kn_part + walk_offsets.kn_part_name,
			   walk.long_name);
	return GO_ON;
}

/* The walk goes to a cgroup at a depth. */
static __always_inline __u64 go_to(void *cgrp, __u32 depth, __u32 phase)
{
	struct place *place = place_at(depth);

	bool has_row = phase == DOWN || (phase == UP && order == BPF_CGROUP_ITER_DESCENDANTS_POST);

	if (!(has_row ? read_cgroup(cgrp) : read_css(cgrp)))
		return FAILED(MEMCG_STATS_UNREADABLE);
	place->cgrp = cgrp;
	place->serial_nr = walk.serial_nr;
	walk.depth = depth;
	walk.phase = phase;
	return GO_ON;
}

/*
 * The walk goes to a cgroup in the list of the children of the one above. *link* is the list_head that
 * leads to it. At the end of the list, the walk goes up.
 */
static __always_inline __u64 go_to_link(void *link, __u32 depth, __u32 phase)
{
	void *above = place_at(depth - 1)->cgrp;

	if (link == above + walk_offsets.cgroup_self + walk_offsets.css_children)
		return go_to(above, depth - 1, UP);
	return go_to(link - walk_offsets.css_sibling - walk_offsets.cgroup_self, depth, phase);
}

/*
 * The walk goes to the first child of the cgroup above that is younger than the one that was here, which
 * has left the list of the children. They are in the order of their serial numbers.
 */
static __always_inline __u64 search_from_first(__u32 depth, __u64 after)
{
	void *above = place_at(depth - 1)->cgrp;

	walk.after = after;
	return go_to_link(pointer_at(above, walk_offsets.cgroup_self + walk_offsets.css_children),
			  depth, SEARCH);
}

/* Returns whether the cgroups at this depth have rows. */
static __always_inline bool has_rows(__u32 depth)
{
	return order != ITER_CHILDREN || depth == 1;
}

/* Returns whether the walk goes to the children of a cgroup at this depth. */
static __always_inline bool goes_down_from(__u32 depth)
{
	if (order == BPF_CGROUP_ITER_SELF_ONLY || (order == ITER_CHILDREN && depth))
		return false;
	return depth < max_depth;
}

/* One step: to a child, or to the next sibling, or up if there is neither. */
__noinline __u64 take_step(void)
{
	__u32 depth = walk.depth, phase = walk.phase;
	struct place *place = place_at(depth);
	void *link, *cgrp = place->cgrp;

	if (phase == SEARCH && place->serial_nr > walk.after) {
		phase = DOWN;
		read_cgroup(cgrp);
	}
	if (phase == DOWN) {
		place->id = read_kn();
		if (order != BPF_CGROUP_ITER_DESCENDANTS_POST && has_rows(depth))
			add_row();
		link = walk.children;
		if (goes_down_from(depth) &&
		    link != cgrp + walk_offsets.cgroup_self + walk_offsets.css_children) {
			if (depth >= MAX_LEVELS - 1)
				return FAILED(MEMCG_STATS_TOO_DEEP);
			return go_to_link(link, depth + 1, DOWN);
		}
	}
	if (phase != SEARCH && order == BPF_CGROUP_ITER_DESCENDANTS_POST) {
		if (phase == UP)
			read_kn();
		add_row();
	}
	if (!depth)
		return OVER;
	/*
	 * This cgroup was in the list at some time since the program began. So it leads to one of which the
	 * same is true, even if either has left the list meanwhile, and neither is freed before the program
	 * ends. No cgroup that stays is passed by, for new ones are added to the end.
	 */
	link = walk.sibling;
	return go_to_link(link, depth, phase == SEARCH ? SEARCH : DOWN);
}

/* One step in the order "up": to the parent. */
__noinline __u64 take_step_up(void)
{
	struct place *place = place_at(0);
	void *above = parent_of(place->cgrp);

	read_cgroup(place->cgrp);
	place->id = read_kn();
	walk.above_id = above ? u64_at(pointer_at(above, offsets.cgroup_kn), offsets.kn_id) : 0;
	add_row();
	place->cgrp = above;
	walk.root_level--;
	return above ? GO_ON : OVER;
}

/* Takes some steps. */
__noinline __u64 take_steps(void)
{
	__u64 result;
	__u32 i;

	for (i = 0; i < MAX_STEPS && i < steps_at_once; i++) {
		result = order == BPF_CGROUP_ITER_ANCESTORS_UP ? take_step_up() : take_step();
		if (result)
			return result;
	}
	return GO_ON;
}

/* Takes steps until the time is up. */
__noinline __u64 take_turns(__u64 begin_ns)
{
	__u64 result;
	__u32 i;

	for (i = 0; i < MAX_TURNS; i++) {
		result = take_steps();
		if (result)
			return result;
		/*
		 * Ancestors are few. A search goes on, because the next call might have to begin it anew:
		 * so each call takes the walk further.
		 */
		if (order != BPF_CGROUP_ITER_ANCESTORS_UP && walk.phase != SEARCH &&
		    bpf_ktime_get_ns() - begin_ns >= longest_ns)
			return PAUSE;
	}
	return GO_ON;
}

/* Whether a cgroup is in the list of the children of the one above. */
enum listed {
	UNKNOWN,
	LISTED,
	GONE,
};

/*
 * Looks at walk.link, in the list of the children of the cgroup above a depth, for the cgroup at that
 * depth, and goes to the next. The list is in the order of the serial numbers.
 */
__noinline __u64 look_at_link(__u32 depth)
{
	void *first = place_at(depth - 1)->cgrp + walk_offsets.cgroup_self +
		      walk_offsets.css_children;
	__u64 sought = place_at(depth)->serial_nr, serial_nr;

	if (walk.link == first ||
	    !read_css(walk.link - walk_offsets.css_sibling - walk_offsets.cgroup_self))
		return GONE;
	serial_nr = walk.serial_nr;
	if (serial_nr >= sought)
		return serial_nr == sought ? LISTED : GONE;
	walk.link = walk.sibling;
	return UNKNOWN;
}

/* Look at some links, and at many. */
__noinline __u64 look_at_links(__u32 depth)
{
	__u64 found = UNKNOWN;
	__u32 i;

	for (i = 0; i < MAX_LOOKS && !found; i++)
		found = look_at_link(depth);
	return found;
}

__noinline __u64 look_at_many_links(__u32 depth)
{
	__u64 found = UNKNOWN;
	__u32 i;

	for (i = 0; i < MAX_LOOKS && !found; i++)
		found = look_at_links(depth);
	return found;
}

/*
 * Returns whether the cgroup at a depth is still in the list of the children of the one above, which is
 * alive. If it is LISTED, then it will not be freed before the program ends.
 *
 * Its memory may have been freed since, and it may have been used again. Then it is not another cgroup's,
 * whose serial number would differ. Before it is freed, a cgroup is marked as released and leaves the
 * list, where no other leads to it. All of this would have to be undone while the serial number stays.
 */
__noinline __u64 is_still_there(__u32 depth)
{
	struct place *place = place_at(depth);
	void *css = place->cgrp + walk_offsets.cgroup_self;
	void *before;

	if (!read_css(place->cgrp) || u32_at(css, offsets.css_flags) & CSS_RELEASED ||
	    walk.serial_nr != place->serial_nr ||
	    parent_of(place->cgrp) != place_at(depth - 1)->cgrp)
		return GONE;
	/* struct list_head has next and then prev. */
	before = pointer_at(css, walk_offsets.css_sibling + sizeof(void *));
	if (pointer_at(before, 0) == css + walk_offsets.css_sibling && !searches)
		return LISTED;
	/* The one before it may be leaving the list just now, which takes two stores. */
	walk.link = pointer_at(place_at(depth - 1)->cgrp,
			       walk_offsets.cgroup_self + walk_offsets.css_children);
	return UNKNOWN;
}

/* The same, but the list is searched if that is not known otherwise. */
__noinline __u64 is_listed(__u32 depth)
{
	__u64 found = is_still_there(depth);
	__u32 i;

	for (i = 0; i < MAX_LOOKS && !found; i++)
		found = look_at_many_links(depth);
	return found;
}

/*
 * Returns the first depth from this one on whose cgroup is not there any more, or 0; or a failure if a
 * list is too long to be searched.
 */
__noinline __u64 first_lost(__u32 depth)
{
	__u64 found;
	__u32 i;

	for (i = 0; i < LEVELS_AT_ONCE && depth + i <= walk.depth; i++) {
		found = depth + i ? is_listed(depth + i) : LISTED;
		if (found == UNKNOWN)
			return FAILED(MEMCG_STATS_UNREADABLE);
		if (found == GONE)
			return depth + i;
	}
	return 0;
}

/* Adds the name of walk.above to the signature, and goes to its parent. */
__noinline __u64 sign_name_above(void)
{
	walk.kn = pointer_at(walk.above, offsets.cgroup_kn);
	read_kn();
	walk.names.signature = hashed(walk.names.signature, tag_of_kn());
	walk.above = parent_of(walk.above);
	return GO_ON;
}

/* Begins a walk from a cgroup. */
__noinline __u64 begin_walk(__u64 address)
{
	void *cgrp = (void *)address;
	void *above = parent_of(cgrp);
	__u32 i;

	walk.nr_rows = 0;
	walk.root_level = u32_at(cgrp, offsets.cgroup_level);
	walk.above_id = above ? u64_at(pointer_at(above, offsets.cgroup_kn), offsets.kn_id) : 0;
	if (nr_names_fit) {
		/* If cgroups can be renamed, the signature begins as in begin_names_at(). */
		walk.above = cgrp;
		walk.names.signature = 0;
		for (i = 0; can_rename && walk.above && i < MAX_NAMES_ABOVE; i++)
			sign_name_above();
		begin_names(&walk.names, walk.names.signature);
	}
	return go_to(cgrp, 0, DOWN);
}

/*
 * Goes on with a walk where the last call left it. If the cgroup there has left the tree, or one above it,
 * then nothing below is alive, and the walk goes to the first sibling after it.
 */
__noinline __u64 resume_walk(__u64 address)
{
	void *cgrp = (void *)address;
	__u32 depth = walk.depth, i;
	__u64 after, lost = 0;

	if (cgrp != place_at(0)->cgrp)
		return FAILED(MEMCG_STATS_NOT_OPEN);
	for (i = 0; i < MAX_LEVELS && i <= depth && !lost; i += LEVELS_AT_ONCE)
		lost = first_lost(i);
	if (lost & MEMCG_STATS_FAILED)
		return lost;
	if (lost) {
		after = place_at(lost)->serial_nr;
		if (lost == depth && walk.phase == SEARCH)
			after = walk.after;
		return search_from_first(lost, after);
	}
	return read_cgroup(place_at(depth)->cgrp) ? GO_ON : FAILED(MEMCG_STATS_UNREADABLE);
}

SEC("raw_tp")
int memcg_walk_dir(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 result, begin_ns = bpf_ktime_get_ns();
	void *cgrp;
	__u32 i;

	if (ctx->args[2] != program_key)
		return FAILED(MEMCG_STATS_OTHER);
	cgrp = cgroup_of(ctx->args[0], ctx->args[1]);
	if (!cgrp)
		return FAILED(MEMCG_STATS_NOT_OPEN);
	result = ctx->args[3] ? resume_walk((__u64)cgrp) : begin_walk((__u64)cgrp);
	for (i = 0; i < MAX_TURNS && !result; i++)
		result = take_turns(begin_ns);
	if (result == OVER) {
		end_names(&walk.names);
		return walk.nr_rows;
	}
	return !result || result == PAUSE ? MEMCG_STATS_MORE : result;
}

COMPUTE_ITEMS
