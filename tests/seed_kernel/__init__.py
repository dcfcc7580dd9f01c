# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Builds the kernel of the lab's guest "seed".

It is Debian's newest kernel source with the functions that the backend "rfc" calls, which no
released kernel has. ``python3 -m tests.seed_kernel`` builds it into the lab's cache, and
``python3 -m tests.vm seed`` boots it.

- memcg_fetch.c: the four functions, added to the source as mm/memcg_fetch.c
- x86_64.config: the kernel's options
- build.py: chooses the source, and builds the kernel into the cache
"""
