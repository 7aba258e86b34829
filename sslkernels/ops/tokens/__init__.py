# SPDX-License-Identifier: Apache-2.0
"""Move tokens by index, and measure them under a mask; see `sslkernels.functional.gather_tokens` and its kin."""

from sslkernels.ops.tokens.autograd import Collect, Gather, MaskedError, Patches
from sslkernels.ops.tokens.schema import TOKENS, ranks

__all__ = ["TOKENS", "Collect", "Gather", "MaskedError", "Patches", "ranks"]
