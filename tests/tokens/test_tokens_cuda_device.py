# SPDX-License-Identifier: Apache-2.0
"""Run the CUDA kernels of the tokens family on a processor, and compare values and gradients with the reference.

Nothing outside of an array is accessed. Numbers that a kernel does not write come out as NaN.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import device_shim
import numpy as np
import pytest
import torch
from torch import Tensor

import sslkernels.functional as SF
from sslkernels import backends
from sslkernels.ops.dtypes import wide
from sslkernels.ops.tokens import cuda, reference
from sslkernels.ops.tokens.schema import Masked

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Dtypes that are read and written.
PAIRS = [
    *((dtype, dtype) for dtype in DTYPES),
    *itertools.product((torch.float32,), (torch.bfloat16, torch.float16)),
    *itertools.product((torch.bfloat16, torch.float16), (torch.float32,)),
]
# These are one channel, an odd number, whole vectors, vectors and a rest, and more than the threads of a warp move.
CHANNELS = (1, 3, 8, 33, 64, 520)


# The gate runs both; the sanitized run is a child of the other.
pytestmark = [] if device_shim.sanitized() else [pytest.mark.slow]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> device_shim.Shim:
    return device_shim.Shim("tokens", tmp_path_factory.mktemp("shim"))


@pytest.fixture(autouse=True)
def on_a_processor(shim: device_shim.Shim, monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(like: Tensor, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.full(shape, torch.nan if dtype.is_floating_point else -77, dtype=dtype)

    why_not = backends.why_not
    monkeypatch.setattr(cuda, "launch", shim.launch)
    monkeypatch.setattr(cuda, "_empty", poisoned)
    monkeypatch.setattr(backends, "why_not", lambda name, *rest: None if name == "cuda" else why_not(name, *rest))
    # The reference, too, must give NaN where a GPU does.
    monkeypatch.setattr(reference, "check_bounds", lambda *_: None)
    shim.ran.clear()


def lying(x: Tensor, how: str) -> Tensor:
    """Put the same numbers in another place: aligned, one number behind that, in rows with a gap, or inside out."""
    if how == "shifted":
        return torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape).copy_(x)
    if how == "gaps":
        gap = 16 // x.element_size()
        room = torch.full((*x.shape[:-2], x.shape[-2] + 1, x.shape[-1] + gap), torch.nan, dtype=x.dtype)
        return room[..., 1:, : x.shape[-1]].copy_(x)
    if how == "inside out":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    return x


LAYOUTS = ("aligned", "shifted", "gaps", "inside out")


def tokens(*shape: int, dtype: torch.dtype, how: str = "aligned") -> Tensor:
    return lying(torch.randn(shape, dtype=wide(dtype)).to(dtype), how)


def indices(sets: int, batch: int, kept: int, length: int, kind: str, dtype: torch.dtype) -> Tensor:
    if kind == "permutations":
        return torch.rand(sets, batch, max(kept, length)).argsort(-1)[..., :kept].clamp(max=length - 1).to(dtype)
    low, high = (0, max(length, 1)) if kind == "repeats" else (-2, length + 2)
    index = torch.randint(low, high, (sets, batch, kept), dtype=dtype)
    if kind == "far outside" and kept:
        index[0, -1, -1] = torch.iinfo(dtype).max
        index[-1, 0, 0] = torch.iinfo(dtype).min
    return index


KINDS = ("permutations", "repeats", "outside", "far outside")


def assert_same(ours: Tensor, theirs: Tensor, rounding: float = 0.0) -> None:
    torch.testing.assert_close(ours, theirs, rtol=rounding, atol=rounding, equal_nan=True)


@pytest.mark.parametrize(("read", "written"), PAIRS, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_gather(read: torch.dtype, written: torch.dtype, channels: int, shim: device_shim.Shim) -> None:
    for how, kind, (batch, length, kept, prefix, sets) in itertools.product(
        LAYOUTS, KINDS, ((2, 5, 3, 0, 1), (3, 4, 9, 1, 3), (1, 6, 0, 2, 1), (2, 7, 7, 0, 2))
    ):
        x = tokens(batch, prefix + length, channels, dtype=read, how=how)
        index = indices(sets, batch, kept, length, kind, torch.int32 if how == "gaps" else torch.int64)
        fill = tokens(1, channels, dtype=wide(written), how=how)[0] if kind != "repeats" else None
        for by_place in (None, False, True):
            rows = prefix + kept if by_place else length
            pos = None if by_place is None else tokens(rows, channels, dtype=wide(written), how=how)
            arguments = (x, index, fill, pos, prefix, bool(by_place), written)
            assert_same(cuda.gather(*arguments), reference.gather(*arguments))
    ran = {name.rsplit("_", 1)[1] for name in shim.ran}
    assert ran == ({"vector", "scalar"} if channels % 8 == 0 else {"scalar"})


@pytest.mark.parametrize(("read", "written"), PAIRS, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_collect(read: torch.dtype, written: torch.dtype, channels: int, shim: device_shim.Shim) -> None:
    for how, kind, strict, (batch, length, kept, prefix, sets) in itertools.product(
        LAYOUTS, KINDS, (False, True), ((2, 5, 3, 0, 1), (3, 4, 9, 1, 3), (2, 6, 0, 2, 1), (2, 7, 7, 0, 2))
    ):
        x = tokens(sets * batch, prefix + kept, channels, dtype=read, how=how)
        index = indices(sets, batch, kept, length, kind, torch.int32 if how == "gaps" else torch.int64)
        fill = tokens(1, channels, dtype=wide(written), how=how)[0] if prefix == 0 else None
        arguments = (index, length, fill, prefix, strict, written)
        assert_same(cuda.collect(x, *arguments), reference.collect(x.contiguous(), *arguments))
    ran = {name.rsplit("_", 1)[1] for name in shim.ran if name.startswith("collect")}
    assert ran == ({"vector", "scalar"} if channels % 8 == 0 else {"scalar"})


def one_after_another(x: Tensor, index: Tensor, length: int, prefix: int, sums: Tensor) -> Tensor:
    """Add rows of x (M B, P + K, C) to ``sums`` (B, P + length, C) in the order of the index, in the sums' dtype."""
    sets, batch, kept = index.shape
    total, rows = sums.numpy(), x.to(sums.dtype).numpy()
    for m, b in np.ndindex(sets, batch):
        total[b, :prefix] += rows[m * batch + b, :prefix]
        for k, i in enumerate(index[m, b].tolist()):
            if 0 <= i < length:
                total[b, prefix + i] += rows[m * batch + b, prefix + k]
    return sums


# M, B, K, N, C, P: one index, none, more sets than a row of a block can hold, rows that far too many indices share,
# more rows than a block has threads, and no place to go.
CROWDS = (
    (1, 1, 1, 1, 1, 0), (2, 2, 0, 3, 8, 1), (13, 2, 3, 2, 33, 0), (1, 3, 150, 5, 8, 2), (3, 1, 40, 1, 264, 0),
    (2, 1, 300, 270, 8, 1), (2, 2, 30, 33, 300, 0), (1, 2, 3, 0, 8, 1),
)  # fmt: skip


@pytest.mark.parametrize("rows", ("few", "many"))
@pytest.mark.parametrize("problem", CROWDS, ids=str)
def test_rows_add_up_in_the_order_of_the_index(
    problem: tuple[int, ...], rows: str, shim: device_shim.Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many share an index, in one set or in several, the bits are those of sums one after another."""
    if rows == "many":
        monkeypatch.setattr(cuda, "BLOCKS", 1)
    sets, batch, kept, length, channels, prefix = problem
    for kind, dtype in itertools.product(("permutations", "repeats", "outside"), (torch.float32, torch.bfloat16)):
        x = tokens(sets * batch, prefix + kept, channels, dtype=dtype)
        index = indices(sets, batch, kept, length, kind, torch.int64)
        shim.ran.clear()
        ours = cuda.collect(x, index, length, None, prefix, False, torch.float32)
        assert len(shim.ran) == min(ours.numel(), 1)  # one launch, whatever the index
        want = one_after_another(x, index, length, prefix, torch.zeros(ours.shape))
        assert torch.equal(ours, want)
        again = cuda.collect(x, index, length, None, prefix, False, torch.float32)
        assert torch.equal(ours, again)
        if x.numel() and length:
            double = one_after_another(
                x[:, prefix:].double(), index, length, 0, torch.zeros(want[:, prefix:].shape).double()
            )
            close = cuda.sums(x[:, prefix:], index, length)
            assert_same(close, double.sum(0).float(), 1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_sums(dtype: torch.dtype, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for how, kind, (sets, batch, kept, length), warps in itertools.product(
        LAYOUTS, KINDS, ((1, 2, 3, 1), (3, 4, 9, 4), (1, 5, 20, 7), (1, 5, 9, 1)), (1, 4096)
    ):
        monkeypatch.setattr(cuda, "SUMS_WARPS", warps)
        x = tokens(sets * batch, kept, channels, dtype=dtype, how=how)
        index = indices(sets, batch, kept, length, kind, torch.int32 if how == "gaps" else torch.int64)
        assert_same(cuda.sums(x, index, length), reference.sums(x, index, length), 64 * torch.finfo(wide(dtype)).eps)
    assert_same(cuda.sums(x[:0], index[:, :0], 3), torch.zeros(3, channels, dtype=wide(dtype)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ranks(dtype: torch.dtype) -> None:
    for batch, length, keep in ((3, 1, 0), (2, 9, 4), (2, 300, 300), (1, 65, 1), (0, 4, 2)):
        keys = torch.rand(batch, length, dtype=wide(dtype)).to(dtype)
        keys[:, length // 2 :] = keys[:, : length - length // 2].clone()  # ties
        keys[:, 1::7] = torch.nan
        keys[:, 2::7] = -torch.inf
        for ours, theirs in zip(cuda.ranks(keys, keep), reference.ranks(keys, keep), strict=True):
            assert_same(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch", (1, 3, 4, 8, 14))
def test_patches(dtype: torch.dtype, patch: int, shim: device_shim.Shim) -> None:
    for shifted, kind, (batch, channels, down, across, kept) in itertools.product(
        (False, True), KINDS, ((2, 3, 2, 3, 4), (1, 1, 3, 2, 6), (2, 2, 1, 1, 0))
    ):
        images = tokens(batch, channels, patch * down, patch * across, dtype=dtype)
        images = lying(images, "shifted") if shifted else images
        index = indices(1, batch, kept, down * across, kind, torch.int32 if shifted else torch.int64)[0]
        assert_same(cuda.patches(images, index, patch), reference.patches(images, index, patch))
    assert any(name.endswith("vector") for name in shim.ran) == (patch % (16 // dtype.itemsize) == 0)


@pytest.mark.parametrize(
    ("pred_dtype", "target_dtype"), [*PAIRS, (torch.bfloat16, torch.float16), (torch.float16, torch.bfloat16)], ids=str
)
@pytest.mark.parametrize("channels", CHANNELS)
def test_errors_and_slopes(
    pred_dtype: torch.dtype, target_dtype: torch.dtype, channels: int, shim: device_shim.Shim
) -> None:
    kind = wide(pred_dtype)
    exact = 64 * torch.finfo(kind).eps
    for how, norm, beta, rows in itertools.product(LAYOUTS, ("none", "mae", "layer"), (0.0, 0.5), (1, 19)):
        if norm == "mae" and channels == 1:
            continue
        pred = tokens(2, rows, channels, dtype=pred_dtype, how=how)
        target = lying((3 + torch.randn(2, rows, channels)).to(target_dtype), how)
        weights = torch.rand(2, rows, dtype=kind).where(torch.rand(2, rows) < 0.7, 0)
        pred[weights == 0] = torch.nan  # these must not matter
        target[weights == 0] = torch.inf
        # A 16-bit target of another 16-bit dtype than pred's is first converted.
        masked, grad = Masked(pred, target, weights, norm, beta), torch.tensor(-3.0, dtype=kind)
        value, slopes = cuda.masked_error(masked, grad, True)
        expected, exact_slopes = reference.masked_error(masked, grad, True)
        assert_same(value, expected, exact)
        assert_same(slopes, exact_slopes, exact if pred_dtype == kind else torch.finfo(pred_dtype).eps)
        alone, nothing = cuda.masked_error(masked, None, False)
        assert torch.equal(alone, value) and nothing.numel() == 0
    ran = {name.rsplit("_", 1)[1] for name in shim.ran}
    assert ran == ({"vector", "scalar"} if channels % 8 == 0 else {"scalar"})


def test_a_slope_of_nan_is_nan() -> None:
    pred, one = torch.tensor([[[torch.nan, 5.0]]]), torch.ones(1, 1)
    for beta in (0.0, 1.0):
        _, slopes = cuda.masked_error(Masked(pred, torch.zeros(1, 1, 2), one, "none", beta), None, True)
        assert slopes[0, 0, 0].isnan() and slopes[0, 0, 1] > 0


def test_offsets_beyond_32_bits(tmp_path: Path) -> None:
    """x lies in a sparse file, as three samples that are 1.3 * 2^30 numbers apart."""
    apart, channels = 1_395_864_376, 8
    file = np.memmap(tmp_path / "x", np.float16, "w+", shape=(2 * apart + 4 * channels,))
    x = torch.from_numpy(file).as_strided((3, 4, channels), (apart, channels, 1))
    x.copy_(torch.randn(x.shape))
    index = indices(1, 3, 4, 4, "repeats", torch.int64)
    assert_same(
        cuda.gather(x, index, None, None, 0, False, x.dtype), reference.gather(x, index, None, None, 0, False, x.dtype)
    )
    arguments = (index, 4, None, 0, True, x.dtype)
    assert_same(cuda.collect(x, *arguments), reference.collect(x.contiguous(), *arguments))
    assert_same(cuda.sums(x, index, 4), reference.sums(x, index, 4), 1e-6)


def losses(backend: str) -> dict[str, Callable[[dict[str, Tensor]], Any]]:
    places = torch.tensor([[2, 0, 2], [1, 3, 3]])
    order = torch.rand(2, 6).argsort(1)
    return {
        "gather": lambda t: SF.gather_tokens(t["x"], places, pos=t["pos"], backend=backend),
        "scatter": lambda t: SF.scatter_tokens(t["x"], order[:, :4], 6, fill=t["token"], backend=backend),
        "restore": lambda t: SF.restore_tokens(
            t["x"], order, t["token"], pos=t["restored"], prefix=1, backend=backend
        ),
        "masks": lambda t: SF.apply_masks(t["x"], [places, places.flip(1), (places + 1) % 4], backend=backend),
        "patches": lambda t: SF.patchify_gather(t["images"], torch.tensor([[3, 3], [0, 5]]), 2, backend=backend),
        "mse": lambda t: SF.masked_mse(
            t["x"], t["x"].detach() + 1, torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 0]]), normalize_target=True,
            backend=backend,
        ),
        "smooth_l1": lambda t: SF.masked_smooth_l1(t["x"], t["x"].detach().flip(1), beta=0.7, backend=backend),
    }  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", list(losses("cuda")))
def test_gradients_of_the_functions(name: str, dtype: torch.dtype, seed: int) -> None:
    found = []
    for backend in ("reference", "cuda"):
        torch.manual_seed(seed)
        leaves = {
            "x": torch.randn(2, 4, 16).to(dtype),
            "pos": torch.randn(4, 16, dtype=wide(dtype)),
            "restored": torch.randn(7, 16, dtype=wide(dtype)),
            "token": torch.randn(16, dtype=wide(dtype)),
            "images": torch.randn(2, 3, 4, 6).to(dtype),
        }
        for leaf in leaves.values():
            leaf.requires_grad_()
        value = losses(backend)[name](leaves)
        gradients = torch.autograd.grad(value, list(leaves.values()), torch.randn_like(value), allow_unused=True)
        found.append((value, *(gradient for gradient in gradients if gradient is not None)))
    rounding = 1e-5 if dtype == wide(dtype) else 4 * torch.finfo(dtype).eps
    assert len(found[0]) == len(found[1]) > 1
    for theirs, ours in zip(*found, strict=True):
        assert_same(ours, theirs, rounding)


@pytest.mark.skipif(device_shim.sanitized(), reason="This is the sanitized run.")
def test_no_access_outside_of_an_array() -> None:
    """All tests above run again under ASan and UBSan, which end the process at the first wrong access."""
    if shutil.which("g++") is None:
        pytest.skip("There is no g++ to compile the CUDA kernels for this processor.")
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    standard = subprocess.run(["g++", "-print-file-name=libstdc++.so"], capture_output=True, text=True).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip("This g++ has no libasan.")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", __file__],
        env={
            **os.environ,
            "SSLKERNELS_SANITIZE": "1",
            "LD_PRELOAD": f"{runtime} {standard}",
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        },
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
