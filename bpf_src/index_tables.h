/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What copy_tables returns. The other side is pymemcgbpf/_sources/slot_discovery.py.
 */
#ifndef INDEX_TABLES_H
#define INDEX_TABLES_H

/* The bytes of the largest table: an int for each vm event. */
#define INDEX_TABLE_MAX 1024

enum index_tables_status {
	INDEX_TABLES_COPIED = 0,
	INDEX_TABLES_NOT_SHOWN = 1,	/* there is no such symbol, or this process may not see it */
	INDEX_TABLES_NOT_READ = 2,
};

#endif
