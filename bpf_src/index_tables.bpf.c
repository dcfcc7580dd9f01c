// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Linux 6.10 on keeps only some counters; which one lies where is told by two static tables
 * (events[] has had one since 6.1). This copies them out, once in a process.
 *
 * An object of its own: with no relocations and no kfuncs, so libbpf need not read the kernel's
 * BTF for it. And the kernel looks the symbols up itself: /proc/kallsyms takes it tens of
 * milliseconds to print.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "index_tables.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const char stats_index_name[] = "mem_cgroup_stats_index";
const char events_index_name[] = "mem_cgroup_events_index";

__u8 stats_index[INDEX_TABLE_MAX];
__u8 events_index[INDEX_TABLE_MAX];
/* In bytes; 0 where it is not wanted. */
const volatile __u32 stats_index_size = 0;
const volatile __u32 events_index_size = 0;

/*
 * Data symbols are there with CONFIG_KALLSYMS_ALL only, and who may not see addresses
 * (kernel.kptr_restrict, CAP_SYSLOG) is not told: the helper has the rule of /proc/kallsyms.
 */
static __always_inline int copy_table(void *table, __u32 size, const char *name, __u32 name_size)
{
	__u64 address = 0;

	if (bpf_kallsyms_lookup_name(name, name_size, 0, &address) || !address)
		return INDEX_TABLES_NOT_SHOWN;
	if (bpf_probe_read_kernel(table, size, (void *)address))
		return INDEX_TABLES_NOT_READ;
	return INDEX_TABLES_COPIED;
}

SEC("syscall")
int copy_index_tables(void *ctx)
{
	int status;

	if (stats_index_size > sizeof(stats_index) || events_index_size > sizeof(events_index))
		return INDEX_TABLES_NOT_READ;
	status = copy_table(events_index, events_index_size, events_index_name,
			    sizeof(events_index_name));
	if (status == INDEX_TABLES_COPIED && stats_index_size)
		status = copy_table(stats_index, stats_index_size, stats_index_name,
				    sizeof(stats_index_name));
	return status;
}
