# SPDX-License-Identifier: Apache-2.0
"""The primitives, one folder per family."""
