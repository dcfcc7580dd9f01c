# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The kernel lab: the installed wheel and its tests on Debian's real kernels, booted in QEMU.

``python3 -m tests.vm --wheel dist/pymemcgbpf-*.whl`` runs the default matrix;
``lab.Lab`` is the same from Python.
One file, one thing:

- debian.py: apt with a state of its own: kernels, package closures, verified downloads
- sources.py: the address of the Debian archive, out of the machine's own apt sources
- kernels.py: which package is the newest of a series
- cache.py: the cache outside the tree, its lock and its whole-or-nothing files
- userland.py: the guest's file system, as cpio archives
- spec.py: what can be booted: series, userlands, architectures, the default matrix
- lab.py: from "6.12@trixie" to a result
- guest.py: one QEMU, watched until it ends
- records.py: what the guest said, judged
- report.py: the tables and the failures
- kernel_table.py: docs/kernels.md, out of the lab's JSON
- init.sh, guest_*.py: what runs inside
"""
