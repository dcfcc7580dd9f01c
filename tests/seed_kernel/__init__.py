# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The kernel of the lab's guest "seed": Debian's newest source, and the functions that backend
"rfc" calls, which no released kernel has.

``python3 -m tests.seed_kernel`` builds it into the lab's cache, ``python3 -m tests.vm seed`` boots
it.

- memcg_fetch.c: the four functions, added to the source as mm/memcg_fetch.c
- x86_64.config: what the kernel has
- build.py: which source, how it is built, where it is kept
"""
