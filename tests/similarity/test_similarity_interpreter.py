# SPDX-License-Identifier: Apache-2.0
"""Check the Triton backend's numbers with Triton's interpreter: this file runs itself again with TRITON_INTERPRET=1.

It tests only float32 and float16, since the interpreter multiplies bfloat16 wrongly. test_triton_compile.py compiles
the same kernels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interpreted import INTERPRETED, poison_new_tensors, run_interpreted
from torch import Tensor

if not INTERPRETED:

    @pytest.mark.slow
    def test_interpreted(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow and not gpu", tmp_path)

    @pytest.mark.slow
    def test_interpreted_sweep(tmp_path: Path) -> None:
        run_interpreted(__file__, "slow", tmp_path)

else:
    pytestmark = pytest.mark.share(4)

    from dense_oracle import ROUNDING, Oracle
    from similarity_plans import PATHS, force

    import sslkernels.functional as SF
    from sslkernels.ops.similarity import reference, triton, triton_plan, triton_tiles
    from sslkernels.ops.similarity.schema import Pairs, Sums
    from sslkernels.ops.similarity.triton_plan import chunk, plan

    SIZES = (1, 2, 3, 17, 31, 33, 257)

    @pytest.fixture(params=PATHS)
    def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        """Force a path, with blocks and a workspace so small that small problems cross many; poison new tensors."""
        force(monkeypatch, request.param, 3_000)
        poison_new_tensors(monkeypatch, triton_tiles)
        return request.param

    def problem(n: int, m: int | None, d: int, dtype: torch.dtype, excluded: int) -> tuple[Tensor, Any, Any]:
        """Make rows, keys (None for the rows themselves) and exclusions (None for none)."""
        x = torch.randn(n, d).div(d**0.25).to(dtype)
        y = None if m is None else torch.randn(m, d).div(d**0.25).to(dtype)
        exclude = torch.randint(-1, n if m is None else m, (n, excluded)) if excluded else None
        return x, y, exclude

    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
    @pytest.mark.parametrize(
        ("rule", "biased"),
        (
            ("none", True), ("diagonals", False), ("far diagonals", True), ("many diagonals", False), ("equal", True),
            ("equal", False), ("unequal", True),
        ),
    )  # fmt: skip
    def test_bias_labels_and_diagonals(path: str, rule: str, biased: bool, dtype: torch.dtype) -> None:
        """Compare with the reference in float64, which test_left_out.py holds against dense formulas."""
        n, m = 19, 44
        x, y, _ = problem(n, m, 12, dtype, 0)
        scale, bias = torch.tensor(0.7), torch.randn(m)
        rules: dict[str, Any] = {
            "diagonals": {"views": 2, "first": 3, "step": 22},
            "far diagonals": {"views": 3, "first": 20, "step": 40},
            "many diagonals": {"views": 9, "first": 3, "step": 5},
        }.get(rule, {})
        if rule in ("equal", "unequal"):
            rules = {"row_labels": torch.arange(n) % 3, "col_labels": torch.arange(m) % 4, "alike": rule == "equal"}
        if biased:
            rules["bias"] = bias
        pairs = Pairs(x, y, scale, None, **rules)
        exact = pairs._replace(x=x.double(), y=y.double(), scale=scale.double())
        exact = exact._replace(bias=bias.double() if biased else None)
        loose = 4e-3 if dtype == torch.float16 else 1e-5
        for columns, attend in ((False, True), (True, False)):
            for got, want in zip(
                triton.forward(pairs, columns, attend), reference.forward(exact, columns, attend), strict=True
            ):
                torch.testing.assert_close(got.double(), want, rtol=loose, atol=loose)
        rows, cols, _ = reference.forward(exact, True, False)
        sums = Sums(rows, torch.rand(n).double(), cols, torch.rand(m).double())
        for needs in ((True, True, biased), (True, False, False), (False, False, biased)):
            got = triton.backward(pairs, Sums(*(of.float() for of in sums)), *needs)
            for some, want in zip(got, reference.backward(exact, sums, *needs), strict=True):
                torch.testing.assert_close(some.double(), want, rtol=loose, atol=loose)

    @pytest.mark.parametrize("keep", ("equal", "unequal"))
    def test_labels_of_rows_with_themselves(path: str, keep: str) -> None:
        x, y, _ = problem(20, None, 9, torch.float32, 0)
        labels = torch.arange(20) % 3
        found = []
        for backend in ("triton", "reference"):
            leaf = x.clone().requires_grad_()
            lse = SF.logsumexp_similarity(leaf, row_labels=labels, keep=keep, backend=backend)
            lse.square().sum().backward()
            found += [lse.detach(), leaf.grad]
        torch.testing.assert_close(found[:2], found[2:], rtol=1e-5, atol=1e-5)

    def check(x: Tensor, y: Tensor | None, scale: float, exclude: Tensor | None, dim: str) -> None:
        """Compare values and every gradient of the public function with the oracle's."""
        oracle = Oracle(x, y, scale, exclude)
        leaves = [x.clone().requires_grad_(), None if y is None else y.clone().requires_grad_()]
        factor = torch.tensor(scale, requires_grad=True)
        got = SF.logsumexp_similarity(leaves[0], leaves[1], factor, exclude=exclude, dim=dim, backend="triton")
        sums = got if dim == "both" else (got,)
        for value, want in zip(sums, (oracle.rows, oracle.columns), strict=False):
            oracle.check_sums(value, want)
        grads = [torch.randn(value.shape) for value in sums]
        torch.autograd.backward(sums, grads)
        dy = None if y is None else leaves[1].grad
        oracle.check_gradients(leaves[0].grad, dy, factor.grad, grads[0], grads[1] if dim == "both" else None)

    # --- sums and gradients -----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
    @pytest.mark.parametrize(
        ("n", "m", "d"), ((1, 1, 1), (2, 3, 1), (3, 2, 17), (17, 31, 33), (33, 70, 3), (31, 17, 257)), ids=str
    )
    @pytest.mark.parametrize("dim", ("rows", "both"))
    def test_rectangle(path: str, dim: str, n: int, m: int, d: int, dtype: torch.dtype) -> None:
        check(*problem(n, m, d, dtype, 0)[:2], 0.7, None, dim)
        x, y, exclude = problem(n, m, d, dtype, 2)
        check(x, y, 0.7, exclude, dim)

    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
    @pytest.mark.parametrize(("n", "d"), ((1, 3), (2, 1), (17, 33), (65, 31), (33, 257)), ids=str)
    @pytest.mark.parametrize("dim", ("rows", "both"))
    def test_with_itself(path: str, dim: str, n: int, d: int, dtype: torch.dtype) -> None:
        """Random exclusions are not symmetric: each row's sum leaves out columns of its own."""
        x, _, exclude = problem(n, None, d, dtype, 2)
        check(x, None, -0.5, exclude, dim)

    @pytest.mark.slow
    @pytest.mark.share(6)
    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
    @pytest.mark.parametrize("n", SIZES)
    @pytest.mark.parametrize("m", (*SIZES, None))
    def test_every_size(path: str, n: int, m: int | None, dtype: torch.dtype) -> None:
        """The sizes form a Latin square, so that every two of N, M and D meet."""
        d = SIZES[(SIZES.index(n) + (0 if m is None else SIZES.index(m))) % len(SIZES)]
        x, y, exclude = problem(n, m, d, dtype, 1)
        check(x, y, 0.3, exclude, "both")

    @pytest.mark.parametrize("scale", (1e-3, 0.0, 20.0, 1e3, -1e3))
    def test_scale(path: str, scale: float) -> None:
        x, y, exclude = problem(33, 40, 17, torch.float32, 1)
        check(x, y, scale, exclude, "both")
        check(x, None, scale, exclude.clamp_max(32), "rows")

    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
    @pytest.mark.parametrize(("n", "m", "d"), ((1, 2, 1), (17, 40, 33), (130, 40, 3)), ids=str)
    def test_frozen_keys(path: str, n: int, m: int, d: int, dtype: torch.dtype) -> None:
        """The flash pass prepares the gradients of rows and scale in the forward, so that the keys may change then."""
        for excluded in (0, 2):
            x, y, exclude = problem(n, m, d, dtype, excluded)
            oracle = Oracle(x, y, 1.5, exclude)
            leaf, scale, keys = x.clone().requires_grad_(), torch.tensor(1.5, requires_grad=True), y.clone()
            rows = SF.logsumexp_similarity(leaf, keys, scale, exclude=exclude, backend="triton")
            keys.fill_(torch.nan)
            oracle.check_sums(rows, oracle.rows)
            grad = torch.randn(n)
            rows.backward(grad)
            oracle.check_gradients(leaf.grad, None, scale.grad, grad, None)

    @pytest.mark.parametrize("needs", ("x", "y", "scale"))
    def test_only_one_gradient(path: str, needs: str) -> None:
        x, y, exclude = problem(33, 40, 5, torch.float32, 1)
        oracle = Oracle(x, y, 0.7, exclude)
        given = {"x": x.clone(), "y": y.clone(), "scale": torch.tensor(0.7)}
        given[needs].requires_grad_()
        rows, columns = SF.logsumexp_similarity(**given, exclude=exclude, dim="both", backend="triton")
        rows_grad, columns_grad = torch.randn(33), torch.randn(40)
        torch.autograd.backward((rows, columns), (rows_grad, columns_grad))
        oracle.check_gradients(given["x"].grad, given["y"].grad, given["scale"].grad, rows_grad, columns_grad)

    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
    def test_everything_from_one_forward(path: str, dtype: torch.dtype) -> None:
        x, y, exclude = problem(33, 40, 5, dtype, 2)
        oracle = Oracle(x, y, 1.5, exclude)
        rows, columns, attended = triton.forward(Pairs(x, y, torch.tensor(1.5), exclude), True, True)
        oracle.check_sums(rows, oracle.rows)
        oracle.check_sums(columns, oracle.columns)
        shares = oracle.shares(oracle.rows, 1)
        error = shares @ oracle.y.abs() * (2 * oracle.logit_error + ROUNDING[dtype])
        assert ((attended.double() - shares @ oracle.y).abs() <= error).all()

    def test_rows_with_nothing_left(path: str) -> None:
        """The value is -inf and the gradients are zero, never NaN, also if there are no keys at all."""
        for y in (torch.randn(4, 5), None):
            x = torch.randn(4, 5, requires_grad=True)
            exclude = torch.tensor([[0, 1, 2, 3], [0, 0, -1, 2], [-1, -1, -1, -1], [3, 2, 1, 0]])
            rows = SF.logsumexp_similarity(x, y, exclude=exclude, backend="triton")
            assert (rows == -torch.inf).tolist() == [True, False, False, True]
            rows[1:3].sum().backward()
            rows = SF.logsumexp_similarity(x, torch.randn(4, 5, requires_grad=True), exclude=exclude, backend="triton")
            rows.backward(torch.ones(4))
            assert x.grad.isfinite().all()
        check(torch.randn(4, 5), torch.randn(4, 5), 1.0, exclude, "both")
        check(torch.randn(4, 5), None, 1.0, exclude, "rows")
        nothing = SF.logsumexp_similarity(x, torch.empty(0, 5, requires_grad=True), backend="triton")
        assert (nothing == -torch.inf).all()
        x.grad = None
        nothing.sum().backward()
        assert (x.grad == 0).all()

    def test_nan_rows_give_nan(path: str) -> None:
        x, y = torch.randn(20, 5), torch.randn(40, 5)
        x[3, 2] = torch.nan
        rows, columns = SF.logsumexp_similarity(x, y, dim="both", backend="triton")
        assert rows.isnan().nonzero().flatten().tolist() == [3] and columns.isnan().all()
        x, y = torch.randn(20, 5, requires_grad=True), y.requires_grad_()
        poison = torch.ones(20)
        poison[3] = torch.nan
        SF.logsumexp_similarity(x, y, backend="triton").backward(poison)
        assert x.grad.isnan().any(1).nonzero().flatten().tolist() == [3] and y.grad.isnan().all()

    def test_large_values(path: str) -> None:
        """Rows of 1e4 in float32 are not normalised: of logits of 1e8 exactly the largest is left."""
        x, y = 1e4 * torch.randn(17, 3), 1e4 * torch.randn(40, 3)
        check(x, y, 1e-3, None, "rows")
        check(1e4 * torch.ones(5, 3), 1e4 * torch.ones(7, 3), 1.0, None, "both")

    @pytest.mark.parametrize("scale", (1.0, 10.0, -300.0))
    def test_a_clear_winner_takes_the_whole_gradient(path: str, scale: float) -> None:
        """Logits of 1e8 to 1e11 are further apart than float32 rounds: e^(S - lse) is exactly one or zero."""
        # Products and their sums are exact, so that a product that is formed again may add them in any order.
        x, y = ((2.0**10 * torch.randint(-40, 41, (n, 3))).requires_grad_() for n in (20, 40))
        logits = scale * x.detach().double() @ y.detach().double().T
        rows, columns = SF.logsumexp_similarity(x, y, scale, dim="both", backend="triton")
        for sums, leaf, keys, of in ((rows, x, y, logits), (columns, y, x, logits.T)):
            first, second = of.topk(2, 1).values.T
            clear = first - second > 1e-4 * first.abs()
            assert clear.sum() > 10
            (gradient,) = torch.autograd.grad(sums.sum(), leaf, retain_graph=True)
            torch.testing.assert_close(gradient[clear], scale * keys.detach()[of.argmax(1)][clear], rtol=1e-6, atol=0)
        frozen = SF.logsumexp_similarity(x, y.detach(), scale, backend="triton")
        (gradient,) = torch.autograd.grad(frozen.sum(), x)
        first, second = logits.topk(2, 1).values.T
        clear = first - second > 1e-4 * first.abs()
        torch.testing.assert_close(gradient[clear], scale * y.detach()[logits.argmax(1)][clear], rtol=1e-6, atol=0)

    def test_small_gradients_survive_half_precision(path: str) -> None:
        """A mean over many equal pairs has weights near 1e-9, which are too small for float16."""
        x, y = torch.ones(3, 4, dtype=torch.float16), torch.ones(300, 4, dtype=torch.float16)
        leaf, keys = x.clone().requires_grad_(), y.clone().requires_grad_()
        rows = SF.logsumexp_similarity(leaf, keys, backend="triton")
        rows.backward(torch.full((3,), 1e-4))
        torch.testing.assert_close(leaf.grad, torch.full_like(leaf, 1e-4), rtol=2e-3, atol=0)
        huge = torch.full((3,), 65536.0)  # a loss scaler sends such gradients
        (dx,) = torch.autograd.grad(SF.logsumexp_similarity(leaf, keys.detach() / 64, backend="triton"), leaf, huge)
        torch.testing.assert_close(dx, torch.full_like(leaf, 1024.0), rtol=2e-3, atol=0)

    def test_strides(path: str) -> None:
        """Rows lie apart or on top of each other, features lie apart, or the start is odd."""
        wide = torch.randn(40, 12)
        for x in (wide[::2, :5], wide[:1, :5].expand(20, 5), wide[:20, ::2], wide.flatten()[3:203].view(20, 10)):
            y = torch.randn(30, x.shape[1])
            rows = SF.logsumexp_similarity(x, y, backend="triton")
            oracle = Oracle(x, y, 1.0, None)
            oracle.check_sums(rows, oracle.rows)
            rows, columns = SF.logsumexp_similarity(y, x, dim="both", backend="triton")
            oracle.check_sums(columns, oracle.rows)
            leaf, keys = x.detach().requires_grad_(), y.requires_grad_()
            SF.logsumexp_similarity(leaf, keys, backend="triton").sum().backward()
            oracle.check_gradients(leaf.grad, keys.grad, None, torch.ones(20), None)

    def test_same_inputs_same_bits(path: str) -> None:
        def once() -> list[Tensor]:
            torch.manual_seed(7)
            x, y = torch.randn(33, 5, requires_grad=True), torch.randn(70, 5, requires_grad=True)
            rows, columns = SF.logsumexp_similarity(x, y, dim="both", backend="triton")
            (rows.sum() + columns.sum()).backward()
            return [rows, columns, x.grad, y.grad]

        assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))

    # --- losses -----------------------------------------------------------------------------------------------------

    def nt_xent(z0: Tensor, z1: Tensor, temperature: Tensor) -> Tensor:
        z = F.normalize(torch.cat([z0, z1]), dim=1)
        logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
        return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z0)))

    def clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        logits, own = scale * image @ text.T, torch.arange(len(image))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    def moco(query: Tensor, key: Tensor, temperature: Tensor, queue: Tensor) -> Tensor:
        query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], 1) / temperature
        return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64))

    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
    @pytest.mark.parametrize("loss", ("nt_xent", "clip_loss", "moco"))
    def test_losses(path: str, loss: str, dtype: torch.dtype) -> None:
        a, b = torch.randn(19, 12).to(dtype), torch.randn(19, 12).to(dtype)
        queue = F.normalize(torch.randn(50, 12), dim=1).to(dtype)
        number = torch.tensor(0.5)
        leaves = [part.clone().requires_grad_() for part in (a, b, number)]
        exact = [part.double().requires_grad_() for part in (a, b, number)]
        if loss == "nt_xent":
            got, want = SF.nt_xent(*leaves[:2], temperature=leaves[2], backend="triton"), nt_xent(*exact)
        elif loss == "clip_loss":
            got, want = SF.clip_loss(*leaves, backend="triton"), clip_loss(*exact)
        else:
            got = SF.info_nce(*leaves[:2], negatives=queue, temperature=leaves[2], backend="triton")
            want = moco(*exact, queue.double())
        got.backward()
        want.backward()
        loose = 4e-3 if dtype == torch.float16 else 1e-5
        torch.testing.assert_close(got.double(), want, rtol=loose, atol=loose)
        for narrow, wide in zip(leaves, exact, strict=True):
            largest = float(wide.grad.abs().max())
            torch.testing.assert_close(narrow.grad.double(), wide.grad, rtol=loose, atol=loose * largest)

    # --- the choice -------------------------------------------------------------------------------------------------

    def test_plan_says_why() -> None:
        chosen = plan(4096, 4096, 128, torch.bfloat16, (9, 0))
        assert chosen.reason.startswith("tiles: 16-bit products") and chosen.fused is not None
        assert plan(4096, 4096, 128, torch.bfloat16, (9, 0), True).fused is None
        assert plan(4096, 4096, 129, torch.bfloat16, (9, 0)).fused is None
        for dtype, capability, because in (
            (torch.float32, (9, 0), "float32"),
            (torch.float16, (8, 6), "8.6"),
            (torch.float16, (0, 0), "0.0"),
        ):
            chosen = plan(4096, 4096, 128, dtype, capability)
            assert chosen.products and because in chosen.reason

    @pytest.mark.parametrize("d", (128, 512, 768))
    @pytest.mark.parametrize(("n", "m"), ((1, 1), (7, 10**6), (10**6, 7), (10**5, 10**5), (1000, 999)))
    def test_chunks_fit_the_workspace(n: int, m: int, d: int) -> None:
        """They are whole tiles; the last of a side is short of at most one tile for each of the others."""
        height, width = chunk(n, m, d, 6 * 128**2, 128, torch.device("cpu"))
        assert height % 128 == width % 128 == 0 and 6 * height * width <= triton_plan.WORKSPACE
        least = min(-(-n // 128) * -(-m // 128) * 128**2, triton_plan.WORKSPACE // 6 // 4)
        assert height * width >= least / 1.2, "a chunk wastes the workspace"
        for size, side in ((n, height), (m, width)):
            chunks = -(-size // side)
            assert size - (chunks - 1) * side > side - 128 * chunks

    def test_chunks_fill_the_multiprocessors(monkeypatch: pytest.MonkeyPatch) -> None:
        """The sides of an H200: 8448 rows are 132 tiles of 128 x 256 for D = 512, 11264 rows 264 for D = 768."""
        monkeypatch.setattr(triton_plan, "processors", lambda _: 132)
        assert chunk(8448 * 8, 8448 * 8, 512, 2 * 128**2, 128, torch.device("cuda")) == (8448, 8448)
        assert chunk(11264 * 4, 11264 * 4, 768, 2 * 128**2, 128, torch.device("cuda")) == (11264, 11264)
