# SPDX-License-Identifier: Apache-2.0
"""Does what ``sslkernels evaluate`` says: finds an encoder, takes its measures and writes a page.

It needs the extra ``sslkernels[train]``.
"""

from __future__ import annotations

from sslkernels.inspection.run import evaluate

__all__ = ["evaluate"]
