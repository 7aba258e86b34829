# SPDX-License-Identifier: Apache-2.0
"""The ops that are timed: one `Case` each, in a file per family.

``CASES`` has them by op, and ``FAMILIES`` has the families by name. Lists, tables and pages follow their order.
"""

from sslkernels.bench.cases import (
    attention,
    contrastive,
    correlation,
    ema,
    neighbours,
    prototypes,
    rows,
    sampled,
    sigmoid,
    sigreg,
    similarity,
    tokens,
)
from sslkernels.bench.cases.case import Case, Cost, Draw, Family, Inputs, Peer, Size, Step, Target

__all__ = ["CASES", "FAMILIES", "Case", "Cost", "Draw", "Family", "Inputs", "Peer", "Size", "Step", "Target"]

_MODULES = (
    similarity,
    contrastive,
    attention,
    prototypes,
    sigmoid,
    rows,
    neighbours,
    sampled,
    correlation,
    sigreg,
    tokens,
    ema,
)
CASES = {case.op: case for module in _MODULES for case in module.CASES}
FAMILIES = {module.FAMILY.name: module.FAMILY for module in _MODULES}
