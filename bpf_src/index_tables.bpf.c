// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Since Linux 6.10 the kernel keeps only some counters for each cgroup, and finds them by two static
 * index tables (for events[] since 6.1). This program copies the tables, once in a process.
 *
 * It is in an object of its own, without CO-RE relocations and kfuncs, so that libbpf need not read
 * the kernel's BTF for it. The kernel looks the symbols up by itself, since reading /proc/kallsyms
 * takes tens of milliseconds.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "index_tables.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const char stats_index_name[] = "mem_cgroup_stats_index";
const char events_index_name[] = "mem_cgroup_events_index";

__u8 stats_index[INDEX_TABLE_MAX];
__u8 events_index[INDEX_TABLE_MAX];
/* How many bytes to copy; 0 if the table is not wanted. */
const volatile __u32 stats_index_size = 0;
const volatile __u32 events_index_size = 0;

/*
 * Copies one table, and returns an enum index_tables_status. The kernel knows the symbols of data only
 * with CONFIG_KALLSYMS_ALL. The helper follows the rules of /proc/kallsyms: it finds nothing for a
 * process that may not see addresses (kernel.kptr_restrict, CAP_SYSLOG).
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

/* Copies both tables into the global variables, and returns an enum index_tables_status. */
SEC("syscall")
int copy_tables(void *ctx)
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
