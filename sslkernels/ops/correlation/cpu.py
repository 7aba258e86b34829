# SPDX-License-Identifier: Apache-2.0
"""The correlation family on the CPU; for now by way of the reference."""

from sslkernels.ops.correlation.reference import backward, energies, matrix, moments

__all__ = ["backward", "energies", "matrix", "moments"]
