# SPDX-License-Identifier: Apache-2.0
"""Compare projections with the normal distribution, without a tensor over the knots; see `sslkernels.functional`."""

from sslkernels.ops.sigreg.autograd import sketched
from sslkernels.ops.sigreg.schema import SIGREG

__all__ = ["SIGREG", "sketched"]
