# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""BPF: libbpf's functions, the kernel's types, programs, and what they are to read."""
