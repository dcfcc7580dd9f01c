# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The kernel lab: the installed wheel and its tests on Debian's real kernels, booted in QEMU.

``python3 -m tests.vm --wheel dist/pymemcgbpf-*.whl`` runs the default matrix;
``lab.Lab`` does the same from Python. The files:

- debian.py: runs apt with a separate state, to find and download packages
- sources.py: finds the address of the Debian archive in the machine's apt sources
- kernels.py: chooses the newest package of each kernel series
- cache.py: the cache outside the repository: its lock, and files that appear complete or not at all
- userland.py: makes the guest's file system, as cpio archives
- spec.py: the series, userlands and architectures that can be booted, and the matrices
- lab.py: prepares a guest such as "6.12@trixie", boots it and returns the result
- guest.py: runs QEMU until the guest ends
- records.py: decides from a guest's output what has passed
- report.py: prints tables and failures
- kernel_table.py: writes docs/kernels.md from the lab's JSON
- init.sh, guest_*.py: run inside the guest
"""
