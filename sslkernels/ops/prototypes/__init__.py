# SPDX-License-Identifier: Apache-2.0
"""Compare softmaxes over prototypes, and spread rows over prototypes; see `sslkernels.functional`."""

from sslkernels.ops.prototypes.autograd import compared
from sslkernels.ops.prototypes.schema import PROTOTYPES, Prototypes
from sslkernels.ops.prototypes.sinkhorn import spread_bias

__all__ = ["PROTOTYPES", "Prototypes", "compared", "spread_bias"]
