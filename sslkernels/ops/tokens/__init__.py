# SPDX-License-Identifier: Apache-2.0
"""Moving tokens by index and measuring them where a mask says so; `sslkernels.functional.gather_tokens` and its kin."""

from sslkernels.ops.tokens.autograd import Collect, Gather, Patches, TokenErrors
from sslkernels.ops.tokens.schema import TOKENS, ranks

__all__ = ["TOKENS", "Collect", "Gather", "Patches", "TokenErrors", "ranks"]
