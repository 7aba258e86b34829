# SPDX-License-Identifier: Apache-2.0
"""Say which kernels an op would run on a GPU that is not here, what they use, and how long they should take."""
