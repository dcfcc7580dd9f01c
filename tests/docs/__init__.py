# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What writes the generated parts of docs/."""
