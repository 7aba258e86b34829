# SPDX-License-Identifier: Apache-2.0
"""Force a way through the pairs, with tiles and a workspace so small that small problems cross many."""

from __future__ import annotations

import pytest

from sslkernels.ops.similarity import triton_plan
from sslkernels.ops.similarity.triton_plan import Blocks, Plan, Tile

# Fused sweeps where there is no table of exclusions; tiles alone; tiles of products that cuBLAS forms.
PATHS = ("fused", "tiles", "products")


def force(monkeypatch: pytest.MonkeyPatch, path: str, workspace: int) -> None:
    """Take ``path``, one of PATHS, with ``workspace`` bytes for chunks."""
    tile, blocks = Tile(16, 16, 4, 1), Blocks(32, 16, 4, 1, 1)

    def plan(*arguments: object) -> Plan:
        table = arguments[5:] == (True,)
        return Plan("forced", tile, tile, blocks if path == "fused" and not table else None, path == "products")

    monkeypatch.setattr(triton_plan, "plan", plan)
    monkeypatch.setattr(triton_plan, "WORKSPACE", workspace)
