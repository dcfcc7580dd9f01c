// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Reads one cgroup in one call, on cgroup v1 and v2, from Linux 5.10 on.
 *
 * It is a raw tracepoint's program that is never attached: bpf(BPF_PROG_RUN) runs it in the task of
 * the caller, under rcu_read_lock() and with preemption disabled. It finds the cgroup by the caller's
 * open directory, and holds no reference to it.
 *
 * All offsets are constants that user space takes from the kernel's BTF. With CO-RE relocations
 * libbpf would have to parse all of that BTF, which takes longer than everything else.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>

#include "memcg_stats.h"
#include "item_code.bpf.h"
#include "open_dir.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u64 program_key = 0;	/* callers must know it */
const volatile __u32 nr_items = 0;

/*
 * A slot for each CPU: nr_items values, the id, the number of the answer, and the words of the blocks.
 * User space maps them. It sets their size and number before load.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, 3 * sizeof(__u64));
} answers SEC(".maps");

SEC("raw_tp")
int memcg_run_dir(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 fd = ctx->args[0], cpu = bpf_get_smp_processor_id(), nr_values = nr_items;
	__u64 cgroup_id = ctx->args[1], on_root = 0, answer, *slot;
	void *cgrp, *css;

	if (ctx->args[2] != program_key)
		return MEMCG_STATS_FAILED | MEMCG_STATS_OTHER;
	cgrp = cgroup_of(fd, cgroup_id);
	if (!cgrp)
		return MEMCG_STATS_FAILED | MEMCG_STATS_NOT_OPEN;
	css = pointer_at(cgrp, offsets.cgroup_memory);
	if (!css || !(u32_at(css, offsets.css_flags) & CSS_VISIBLE))
		return MEMCG_STATS_FAILED | MEMCG_STATS_NOT_VISIBLE;
	slot = bpf_map_lookup_elem(&answers, &cpu);
	if (!slot || nr_values > MEMCG_STATS_MAX_ITEMS)
		return MEMCG_STATS_FAILED | MEMCG_STATS_NO_SLOT;

	answer = (slot[nr_values + 1] + 1) & ((1U << MEMCG_STATS_SEQUENCE_BITS) - 1);
	answer |= cpu << MEMCG_STATS_SEQUENCE_BITS;
	*(volatile __u64 *)&slot[nr_values + 1] = answer;
	barrier();
	slot[nr_values] = cgroup_id;
	if (asks_on_root)
		on_root = mask_zero(u32_at(cgrp, offsets.cgroup_level));
	fill_values(css - offsets.memcg_css, cgrp, slot + nr_values + 2, slot, nr_values, on_root);
	return answer;
}

COMPUTE_ITEMS
