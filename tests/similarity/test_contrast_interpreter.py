# SPDX-License-Identifier: Apache-2.0
"""Check whole losses on Triton with its interpreter: their numbers, and how many kernels one call launches.

This file runs itself again with TRITON_INTERPRET=1. Launches are those of Triton and of torch's operations that would
start a kernel on a GPU; the interpreter takes the same way through the launchers as a GPU does.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interpreted import INTERPRETED, poison_new_tensors, run_interpreted
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

if not INTERPRETED:

    @pytest.mark.slow
    def test_interpreted(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow and not gpu", tmp_path)

else:
    pytestmark = pytest.mark.share(5)

    from similarity_plans import PATHS, force
    from triton.runtime.interpreter import GridExecutor

    import sslkernels.functional as SF
    from sslkernels import gpu
    from sslkernels.distributed import Shard
    from sslkernels.ops import registry
    from sslkernels.ops.similarity import composed, reference, ring, triton, triton_anchors, triton_tiles
    from sslkernels.ops.similarity.schema import Anchors, Needs, Pairs, Sums
    from sslkernels.ops.triton_launch import Area

    AGAINST = ("itself", "both", "rows", "queue")

    @pytest.fixture(params=(*PATHS, "one chunk", "joined sums"))
    def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        """Force a path in small chunks; products in one chunk, which are kept; or tiles whose sums are joined."""
        forced, workspace = {"one chunk": ("products", 1 << 20), "joined sums": ("tiles", 600)}.get(
            request.param, (request.param, 3_000)
        )
        force(monkeypatch, forced, workspace)
        poison_new_tensors(monkeypatch, triton_tiles)
        return request.param

    def anchors_of(against: str, unit: bool, dtype: torch.dtype, frozen: bool, n: int = 19, d: int = 12) -> Anchors:
        x, y = torch.randn(n, d).to(dtype), torch.randn(n, d).to(dtype)
        queue = torch.randn(50, d).div(d**0.5).to(dtype) if against == "queue" else None
        return Anchors(x, y, queue, torch.tensor(1.5 if unit else 0.3), against, unit, frozen, dtype)

    def in_float64(anchors: Anchors) -> Anchors:
        wide = [None if of is None else of.double() for of in anchors[:4]]
        return anchors._replace(x=wide[0], y=wide[1], negatives=wide[2], scale=wide[3], dtype=torch.float64)

    def check(got: tuple[Tensor, ...], want: tuple[Tensor, ...], anchors: Anchors, mean: bool) -> None:
        """Compare with the bounds of the losses in test_similarity_interpreter.py.

        The gradient of the scale is a sum of weights times products, and weights of either sign add up to one, or to
        the number of anchors.
        """
        loose = 4e-3 if anchors.dtype == torch.float16 else 1e-5
        rows = [F.normalize(of.double()) if anchors.unit else of.double() for of in anchors[:2]]
        queue = [] if anchors.negatives is None else [anchors.negatives.double()]
        products = torch.cat(rows) @ torch.cat(rows + queue).T
        for place, (narrow, wide) in enumerate(zip(got, want, strict=True)):
            assert narrow.dtype == torch.float32 and narrow.shape == wide.shape
            largest = float(wide.abs().max()) if wide.numel() else 0.0
            if place == 4:
                largest = float(products.abs().max()) * (1 if mean else len(products))
            torch.testing.assert_close(narrow.double(), wide, rtol=loose, atol=loose * largest)

    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
    @pytest.mark.parametrize("unit", (False, True))
    @pytest.mark.parametrize("against", AGAINST)
    def test_every_need(path: str, against: str, unit: bool, dtype: torch.dtype) -> None:
        for number, needs in enumerate(itertools.product((False, True), repeat=4)):
            if needs[2] and against != "queue":
                continue
            anchors = anchors_of(against, unit, dtype, not (needs[1] or needs[2]), d=(12, 1030)[number == 15])
            mean = number % 2 == 0
            want = reference.contrast(in_float64(anchors), mean, Needs(*needs))
            check(triton.contrast(anchors, mean, Needs(*needs)), want, anchors, mean)

    @pytest.mark.parametrize(("way", "against"), (("fused", "itself"), ("tiles", "itself"), ("fused", "rows")))
    def test_more_parts_than_are_added_at_once(monkeypatch: pytest.MonkeyPatch, way: str, against: str) -> None:
        """A GPU leaves sums in more parts than the interpreter's few multiprocessors, and its rows have more tiles."""
        force(monkeypatch, way, 1 << 20)
        poison_new_tensors(monkeypatch, triton_tiles)
        monkeypatch.setattr(gpu, "INTERPRETER", gpu.Gpu(132, (0, 0)))
        monkeypatch.setattr(triton_anchors, "WEIGH", Area(numbers=64, warps=4))
        itself = against == "itself"
        dtype = torch.float32 if way == "tiles" else torch.float16
        anchors = anchors_of(against, True, dtype, not itself, n=130, d=64)._replace(scale=torch.tensor(12.0))
        # The last pair weighs two hundred times as much as the others, more than their unit would leave float16.
        anchors.y[:-1], anchors.y[-1] = anchors.x[:-1], -anchors.x[-1]
        needs = Needs(True, itself, False, True)
        want = reference.contrast(in_float64(anchors), True, needs)
        check(triton.contrast(anchors, True, needs), want, anchors, True)

    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
    @pytest.mark.parametrize("against", AGAINST)
    def test_composed_of_the_ops(path: str, against: str, dtype: torch.dtype) -> None:
        """Several ranks call the same ops one by one, with collectives between them."""
        anchors, needs = anchors_of(against, True, dtype, False), Needs(True, True, against == "queue", True)
        want = reference.contrast(in_float64(anchors), True, needs)
        ways = (composed.contrast, ring.contrast) if against in ("both", "rows") else (composed.contrast,)
        for way in ways:
            check(way(anchors, True, needs, Shard.alone, "triton"), want, anchors, True)

    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
    @pytest.mark.parametrize(("start", "views"), ((0, 1), (5, 1), (31, 1), (0, 2), (17, 2), (26, 2), (3, 4)))
    def test_views_among_the_rows_of_other_ranks(path: str, start: int, views: int, dtype: torch.dtype) -> None:
        """Diagonals begin anywhere in a tile, and wrap around."""
        n, m, scale = 24, 55, torch.tensor(0.7)
        x, y = torch.randn(n, 12).to(dtype), torch.randn(m, 12).to(dtype)
        pairs = Pairs.of_views(x, y, scale, start, views)
        exact = Pairs.of_views(x.double(), y.double(), scale.double(), start, views)
        loose = 4e-3 if dtype == torch.float16 else 1e-5
        for attend in (False, True):
            for got, want in zip(
                triton.forward(pairs, not attend, attend), reference.forward(exact, not attend, attend), strict=True
            ):
                torch.testing.assert_close(got.double(), want, rtol=loose, atol=loose)
        rows, cols, _ = reference.forward(exact, True, False)
        sums = Sums(rows, torch.rand(n).double(), cols, torch.rand(m).double())
        for needs in ((True, True), (True, False), (False, True)):
            got = triton.backward(pairs, Sums(*(of.float() for of in sums)), *needs, False)
            for some, want in zip(got, reference.backward(exact, sums, *needs, False), strict=True):
                torch.testing.assert_close(some.double(), want, rtol=loose, atol=loose)

    @pytest.mark.parametrize("value", (0.0, torch.inf, -torch.inf, torch.nan))
    @pytest.mark.parametrize("unit", (False, True))
    @pytest.mark.parametrize("against", AGAINST)
    def test_entries_that_are_no_numbers(path: str, against: str, unit: bool, value: float) -> None:
        anchors, needs = anchors_of(against, unit, torch.float32, False), Needs(True, True, against == "queue", True)
        for place in ((3, slice(None)), (3, 2)):
            anchors.x[place] = value
            want = reference.contrast(anchors, True, needs)
            for got, wanted in zip(triton.contrast(anchors, True, needs), want, strict=True):
                assert torch.equal(got.isnan(), wanted.isnan())
                assert torch.equal(got.isinf(), wanted.isinf())

    def test_well_aligned_pairs_keep_their_digits(path: str) -> None:
        """A loss of 1e-9 is no difference of larger numbers."""
        x = torch.eye(20, 40)
        anchors = Anchors(x, x.clone(), None, torch.tensor(24.0), "rows", True, False, torch.float32)
        value, dx, *_ = triton.contrast(anchors, True, Needs(True, True, False, False))
        want, wanted, *_ = reference.contrast(in_float64(anchors), True, Needs(True, True, False, False))
        torch.testing.assert_close(value.double(), want, rtol=1e-5, atol=0)
        torch.testing.assert_close(dx.double(), wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))

    # --- launches ---------------------------------------------------------------------------------------------------

    NO_KERNEL = {
        "empty", "new_empty", "empty_like", "empty_strided", "view", "_unsafe_view", "slice", "select", "unbind",
        "unsqueeze", "t", "transpose", "permute", "detach", "alias", "expand", "as_strided", "_reshape_alias", "split",
        "_local_scalar_dense",
    }  # fmt: skip

    class Launches(TorchDispatchMode):
        """Name what would run on a GPU: Triton's kernels, and torch's operations but views and allocations."""

        def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
            super().__init__()
            self.names: list[str] = []
            self._inside = False
            # The ops go straight to their backend, as plain calls do, so that we see what they launch.
            monkeypatch.setattr(registry, "is_plain", lambda: True)
            launch = GridExecutor.__call__

            def counted(executor: Any, *arguments: Any, **options: Any) -> None:
                self.names.append(executor.fn.__name__)
                self._inside = True  # the interpreter copies arguments
                launch(executor, *arguments, **options)
                self._inside = False

            monkeypatch.setattr(GridExecutor, "__call__", counted)

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func.overloadpacket.__name__
            if not self._inside and name not in NO_KERNEL:
                self.names.append(name)
            return func(*args, **(kwargs or {}))

    # The numbers are those of the op, and of the step around it: torch.full of a number that is given as a float, and
    # ones_like where the backward begins. On a GPU the node multiplies all gradients in one launch more.
    EXPECTED = {
        "fused": {"nt_xent": (5, 2), "clip_loss": (6, 1), "info_nce": (7, 2), "queue": (5, 2)},
        "tiles": {"nt_xent": (6, 2), "clip_loss": (6, 1), "info_nce": (7, 2), "queue": (6, 2)},
        "products": {"nt_xent": (7, 2), "clip_loss": (7, 1), "info_nce": (8, 2), "queue": (7, 2)},
    }
    AROUND = ("full", "ones_like")

    @pytest.mark.parametrize("loss", ("nt_xent", "clip_loss", "info_nce", "queue"))
    @pytest.mark.parametrize("way", PATHS)
    def test_launches(monkeypatch: pytest.MonkeyPatch, way: str, loss: str) -> None:
        """These counts are the point of the design; docs/design/similarity.md lists them."""
        force(monkeypatch, way, 1 << 20)
        x, y = (torch.randn(40, 16, requires_grad=True) for _ in range(2))
        queue, scale = torch.randn(50, 16), torch.tensor(2.0, requires_grad=True)
        with Launches(monkeypatch) as seen:
            if loss == "queue":
                value = SF.info_nce(x, y.detach(), negatives=queue, backend="triton")
            elif loss == "clip_loss":
                value = SF.clip_loss(x, y, scale, backend="triton")
            else:
                value = getattr(SF, loss)(x, y, backend="triton")
            value.backward()
        around = [name for name in seen.names if name in AROUND]
        assert (len(seen.names) - len(around), len(around)) == EXPECTED[way][loss], seen.names
