/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What copy_index_tables returns. pymemcgbpf/_kernel_layout.py is the other side.
 */
#ifndef INDEX_TABLES_H
#define INDEX_TABLES_H

/* Room for the widest: an int for each vm event. */
#define INDEX_TABLE_MAX 1024

enum index_tables_status {
	INDEX_TABLES_COPIED = 0,
	INDEX_TABLES_NOT_SHOWN = 1,	/* no such symbol, or not for this caller */
	INDEX_TABLES_NOT_READ = 2,
};

#endif
