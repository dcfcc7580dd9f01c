# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The benchmark: ``python -m tests.bench`` with the package installed, as root."""
