/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the C programs of the benchmark share. They keep running, so that their rounds can take
 * turns with the rounds of other contestants.
 *
 * A line on stdin holds a number of reads; the answer on stdout is the nanoseconds that they
 * took. For 0 the answer is the values of one read.
 */
#ifndef BENCH_H
#define BENCH_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static inline void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static inline int open_or_die(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		die(path);
	return fd;
}

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/*
 * Answers requests until stdin ends. Before the timed reads it makes a tenth of them untimed.
 * Both functions exit if they fail.
 */
static inline int serve(void (*read_once)(void), void (*print_values)(void))
{
	long count, i;

	while (scanf("%ld", &count) == 1) {
		if (count == 0) {
			read_once();
			print_values();
		} else {
			uint64_t start;

			for (i = 0; i < count / 10; i++)
				read_once();
			start = now_ns();
			for (i = 0; i < count; i++)
				read_once();
			printf("%llu\n", (unsigned long long)(now_ns() - start));
		}
		fflush(stdout);
	}
	return 0;
}

#endif
