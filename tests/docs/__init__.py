# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Writes the generated parts of docs/."""
