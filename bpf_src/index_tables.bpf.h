/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Linux 6.10 on keeps only some counters; which one lies where is told by two
 * static tables. User space looks up their addresses and runs this once.
 */
#ifndef INDEX_TABLES_BPF_H
#define INDEX_TABLES_BPF_H

const volatile __u64 stats_index_address = 0;
const volatile __u64 events_index_address = 0;

#define INDEX_TABLE_MAX 1024

__u8 stats_index[INDEX_TABLE_MAX];
__u8 events_index[INDEX_TABLE_MAX];
const volatile __u32 stats_index_size = 0;
const volatile __u32 events_index_size = 0;

SEC("syscall")
int copy_index_tables(void *ctx)
{
	long err = 0;

	if (stats_index_size > sizeof(stats_index) || events_index_size > sizeof(events_index))
		return 1;
	if (stats_index_address)
		err = bpf_probe_read_kernel(stats_index, stats_index_size,
					    (void *)stats_index_address);
	if (!err && events_index_address)
		err = bpf_probe_read_kernel(events_index, events_index_size,
					    (void *)events_index_address);
	return err ? 1 : 0;
}

#endif
