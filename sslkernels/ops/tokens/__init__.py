# SPDX-License-Identifier: Apache-2.0
"""Moving tokens by index and measuring them where a mask says so; `sslkernels.functional.gather_tokens` and its kin."""

from sslkernels.ops.tokens.autograd import Collect, Gather, Patches, TokenErrors, tokens_ranks

__all__ = ["Collect", "Gather", "Patches", "TokenErrors", "tokens_ranks"]
