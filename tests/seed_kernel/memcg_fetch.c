// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Kernel source, for the lab's guest "seed": the functions that the first form of the memcg
 * kfunc patch offered, written anew. It is built into the kernel as mm/memcg_fetch.c.
 *
 * That patch is in no released kernel, so this is where backend "rfc" is tested. What a program
 * sees of it is kept: four names, their arguments, no flags (so the flush may be called by a
 * program that does not sleep), and tracing programs alone may call them. A cgroup
 * without the memory controller has nothing, which is 0.
 */
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/cgroup.h>
#include <linux/init.h>
#include <linux/memcontrol.h>
#include <linux/vmstat.h>

/*
 * NULL where the controller is not enabled. No reference is taken: around a cgroup iterator's
 * program cgroup_mutex is held, which keeps the css from going.
 */
static struct mem_cgroup *counted_by(struct cgroup *cgrp)
{
	if (mem_cgroup_disabled() || !cgrp)
		return NULL;
	return mem_cgroup_from_css(rcu_dereference_raw(cgrp->subsys[memory_cgrp_id]));
}

__bpf_kfunc_start_defs();

__bpf_kfunc void memcg_flush_stats(struct cgroup *cgrp)
{
	struct mem_cgroup *memcg = counted_by(cgrp);

	if (memcg)
		mem_cgroup_flush_stats(memcg);
}

__bpf_kfunc unsigned long memcg_node_stat_fetch(struct cgroup *cgrp, enum node_stat_item item)
{
	struct mem_cgroup *memcg = counted_by(cgrp);

	return memcg ? memcg_page_state_output(memcg, item) : 0;
}

__bpf_kfunc unsigned long memcg_stat_fetch(struct cgroup *cgrp, enum memcg_stat_item item)
{
	struct mem_cgroup *memcg = counted_by(cgrp);

	return memcg ? memcg_page_state_output(memcg, item) : 0;
}

__bpf_kfunc unsigned long memcg_vm_event_fetch(struct cgroup *cgrp, enum vm_event_item item)
{
	struct mem_cgroup *memcg = counted_by(cgrp);

	return memcg ? memcg_events(memcg, item) : 0;
}

__bpf_kfunc_end_defs();

BTF_KFUNCS_START(memcg_fetch_ids)
BTF_ID_FLAGS(func, memcg_flush_stats)
BTF_ID_FLAGS(func, memcg_node_stat_fetch)
BTF_ID_FLAGS(func, memcg_stat_fetch)
BTF_ID_FLAGS(func, memcg_vm_event_fetch)
BTF_KFUNCS_END(memcg_fetch_ids)

static const struct btf_kfunc_id_set memcg_fetch_set = {
	.owner = THIS_MODULE,
	.set = &memcg_fetch_ids,
};

static int __init memcg_fetch_init(void)
{
	return register_btf_kfunc_id_set(BPF_PROG_TYPE_TRACING, &memcg_fetch_set);
}
late_initcall(memcg_fetch_init);
