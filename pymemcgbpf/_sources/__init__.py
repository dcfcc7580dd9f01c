# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What a reader reads from: one cgroup or a tree, through BPF or as text."""
