# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Opens, checks, parses and names cgroup directories and files. Uses no BPF."""
