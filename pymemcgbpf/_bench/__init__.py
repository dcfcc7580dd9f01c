# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The patch's experiment, repeated on any machine: what ``pymemcgbpf bench`` runs."""
