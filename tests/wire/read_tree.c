/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Prints a pinned tree: the numbers of its items, and a line for each cgroup with its id, its parent's
 * id, its level, its name and its values. "read_tree map PIN" maps PIN/map, "read_tree stream PIN" reads
 * PIN/stream. docs/pins.md describes the layout.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct half {
	uint64_t number, started_ns, ended_ns, signature;
	uint32_t nr_rows, text_chunks;
	char root_path[4096];
};
struct head {
	uint32_t magic;
	uint16_t version, head_size;
	uint32_t chunk_size, half_chunks, row_size, rows_per_chunk;
	uint16_t nr_items, order;
	uint32_t max_depth, flags, room;
	uint64_t root_id, interval_ns;
	uint16_t items[512];
	uint64_t writing, written, due_ns, walks, walks_ns;
	uint32_t state, needed;
	struct half halves[2];
};
struct row { uint64_t id, parent_id; uint32_t level, flags; uint64_t values[]; };
struct text { uint32_t size, nr_names; };
struct piece { uint64_t number; uint32_t index, size; };

enum { ALIVE = 1, TRIES = 1000 };

static const char *check(const struct head *head)
{
	if (head->magic != 0x5453434d || head->version != 1 || head->head_size != sizeof(*head))
		return "no pinned tree of version 1";
	if (!head->nr_items || head->nr_items > 512 || !head->half_chunks ||
	    head->row_size != sizeof(struct row) + 8 * head->nr_items ||
	    head->chunk_size != head->row_size * head->rows_per_chunk ||
	    head->chunk_size < sizeof(*head))
		return "damaged";
	return NULL;
}

/* Prints a walk from a copy of its half: chunk i of the half is at chunks + i * chunk_size. */
static const char *print_walk(const struct head *head, const struct half *half, const char *chunks)
{
	uint32_t row_chunks = (half->nr_rows + head->rows_per_chunk - 1) / head->rows_per_chunk;
	uint32_t left = 0, chunk = head->half_chunks;
	const char *name = "", *end = "";

	if (row_chunks > head->half_chunks || half->text_chunks > head->half_chunks - row_chunks)
		return "damaged";
	for (int i = 0; i < head->nr_items; i++)
		printf("%s%u", i ? " " : "items ", head->items[i]);
	printf("\nroot %s\n", half->root_path);
	for (uint32_t i = 0; i < half->nr_rows; i++) {
		const struct row *row = (void *)(chunks + (size_t)i * head->row_size);

		if (half->text_chunks && !left) {
			const struct text *text = (void *)(chunks + (size_t)--chunk * head->chunk_size);

			name = (void *)(text + 1);
			end = name + text->size;
			left = text->nr_names;
			if (chunk < head->half_chunks - half->text_chunks || !left ||
			    !text->size || text->size > head->chunk_size - sizeof(*text) || end[-1])
				return "damaged names";
		}
		printf("%" PRIu64 " %" PRIu64 " %u %s", row->id, row->parent_id, row->level, name);
		for (int k = 0; k < head->nr_items; k++)
			printf(" %" PRIu64, row->values[k]);
		putchar('\n');
		if (left && --left)
			name += strlen(name) + 1;
		if (left && name >= end)
			return "damaged names";
	}
	return fflush(stdout) ? "cannot be printed" : NULL;
}

static const char *read_map(const char *path)
{
	struct { uint64_t path; uint32_t fd, flags; char rest[112]; } get = { (uintptr_t)path, 0, 0, {} };
	int fd = syscall(SYS_bpf, 7 /* BPF_OBJ_GET */, &get, sizeof(get)), tries;
	long page = sysconf(_SC_PAGESIZE);
	size_t size = (sizeof(struct head) + page - 1) / page * page;
	const struct head *head;
	const char *wrong;

	if (fd < 0)
		return strerror(errno);
	head = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (head == MAP_FAILED)
		return strerror(errno);
	wrong = check(head);
	if (wrong)
		return wrong;
	size = (size_t)head->chunk_size * (1 + 2 * (size_t)head->half_chunks);
	head = mmap(NULL, (size + page - 1) / page * page, PROT_READ, MAP_SHARED, fd, 0);
	if (head == MAP_FAILED)
		return strerror(errno);
	if (head->state != ALIVE)
		return "not alive";
	for (tries = 0; tries < TRIES; tries++) {
		uint64_t number = __atomic_load_n(&head->written, __ATOMIC_ACQUIRE);
		size_t bytes = (size_t)head->chunk_size * head->half_chunks;
		char *copy = malloc(bytes);
		struct half half = head->halves[number & 1];

		if (!copy)
			return strerror(errno);
		memcpy(copy, (char *)head + head->chunk_size + (number & 1) * bytes, bytes);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(&head->writing, __ATOMIC_RELAXED) < number + 2)
			return print_walk(head, &half, copy);
		free(copy);
	}
	return "too slow";
}

/* Reads as many bytes as were asked for. */
static int read_all(int fd, void *to, size_t size)
{
	while (size) {
		ssize_t got = read(fd, to, size < INT_MAX ? size : INT_MAX);

		if (got <= 0)
			return 0;
		to = (char *)to + got;
		size -= got;
	}
	return 1;
}

static const char *read_stream(const char *path)
{
	static struct head head;

	for (int tries = 0; tries < TRIES; tries++) {
		int fd = open(path, O_RDONLY), complete = 1;
		const char *wrong = NULL;
		struct piece piece;
		uint32_t chunks = 0;
		struct half *half;
		char *copy;

		if (fd < 0 || !read_all(fd, &head, sizeof(head)))
			return "cannot be read";
		wrong = check(&head);
		if (wrong)
			return wrong;
		if (head.state != ALIVE)
			return "not alive";
		half = &head.halves[head.written & 1];
		copy = malloc((size_t)head.chunk_size * head.half_chunks);
		if (!copy)
			return strerror(errno);
		while (read_all(fd, &piece, sizeof(piece)) && piece.number == head.written &&
		       piece.index != UINT32_MAX && piece.size == head.chunk_size) {
			uint64_t at = piece.index - 1 - (head.written & 1) * head.half_chunks;

			if (at >= head.half_chunks ||
			    !read_all(fd, copy + at * head.chunk_size, head.chunk_size))
				return "damaged";
			chunks++;
		}
		complete = piece.index == UINT32_MAX && piece.number == head.written &&
			   chunks == (half->nr_rows + head.rows_per_chunk - 1) / head.rows_per_chunk +
				     half->text_chunks;
		close(fd);
		if (complete)
			return print_walk(&head, half, copy);
		free(copy); /* a walk was published meanwhile */
	}
	return "too slow";
}

int main(int argc, char **argv)
{
	char path[PATH_MAX];
	const char *wrong;

	if (argc != 3)
		return fprintf(stderr, "usage: read_tree map|stream PIN\n"), 2;
	snprintf(path, sizeof(path), "%s/%s", argv[2], argv[1]);
	wrong = strcmp(argv[1], "map") ? read_stream(path) : read_map(path);
	if (wrong)
		return fprintf(stderr, "%s: %s\n", path, wrong), 1;
	return 0;
}
