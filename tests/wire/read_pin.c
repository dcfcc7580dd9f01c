/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Prints the contents of pins: the numbers of the items, and a line for each cgroup with its id,
 * its parent's id, its level and its values. docs/wire-format.md describes the layout.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct header {
	uint32_t magic;
	uint16_t version, size;
	uint32_t row_size;
	uint16_t nr_items, order, items[];
};
struct row { uint64_t id, parent_id; uint32_t level, flags; uint64_t values[]; };
struct trailer { uint32_t magic, nr_rows; uint64_t end_ns; };

static const char *print_pin(const char *path, char *data, size_t room)
{
	int fd = open(path, O_RDONLY), i;
	ssize_t size = fd < 0 ? -1 : read(fd, data, room); /* one read() returns the whole stream */
	const struct header *head = (void *)data;
	const struct trailer *tail;

	if (size < 0 || close(fd))
		return "cannot be read";
	if (size < (ssize_t)sizeof(*head) || head->magic != 0x4753434d || head->version != 1)
		return "no statistics of version 1";
	if (head->size < sizeof(*head) + 2 * head->nr_items || head->size % 8 ||
	    head->row_size < sizeof(struct row) + 8 * head->nr_items || head->row_size % 8)
		return "damaged";
	tail = (void *)(data + size - sizeof(*tail));
	if (size % 8 || tail->magic != 0x4553434d ||
	    (uint64_t)size != head->size + (uint64_t)tail->nr_rows * head->row_size + sizeof(*tail))
		return "cut short: too many cgroups";
	for (i = 0; i < head->nr_items; i++)
		printf("%s%u", i ? " " : "items ", head->items[i]);
	for (char *at = data + head->size; at < (char *)tail; at += head->row_size) {
		const struct row *row = (void *)at;

		printf("\n%" PRIu64 " %" PRIu64 " %u", row->id, row->parent_id, row->level);
		for (i = 0; i < head->nr_items; i++)
			printf(" %" PRIu64, row->values[i]);
	}
	putchar('\n');
	return fflush(stdout) ? "cannot be printed" : NULL;
}

int main(int argc, char **argv)
{
	size_t room = 8 * sysconf(_SC_PAGESIZE);
	char *data = malloc(room);

	for (int i = 1; i < argc; i++) {
		const char *wrong = print_pin(argv[i], data, room);

		if (wrong)
			return fprintf(stderr, "%s: %s\n", argv[i], wrong), 1;
	}
	return 0;
}
