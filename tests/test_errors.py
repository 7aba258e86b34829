# SPDX-License-Identifier: Apache-2.0
"""A wrong argument gets a sentence with the function, the argument, what came, and what is accepted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

import sslkernels as sk
import sslkernels.functional as SF
from sslkernels.losses import ClipLoss, InfoNCELoss, NTXentLoss

pytestmark = pytest.mark.filterwarnings("ignore:memory_bank_size")

GOOD = torch.ones(4, 3)
PAIRS: dict[str, tuple[Callable[..., Any], str, str]] = {
    "nt_xent": (SF.nt_xent, "z0", "z1"),
    "info_nce": (SF.info_nce, "query", "key"),
    "clip_loss": (lambda a, b, **o: SF.clip_loss(a, b, 1.0, **o), "image", "text"),
    "negative_cosine_similarity": (SF.negative_cosine_similarity, "x0", "x1"),
    "byol_loss": (SF.byol_loss, "prediction", "target"),
    "logsumexp_similarity": (SF.logsumexp_similarity, "x", "y"),
}
BAD_ROWS: dict[str, tuple[Any, type[Exception], str]] = {
    "list": ([[1.0]], TypeError, "list"),
    "array": (np.ones((4, 3)), TypeError, "ndarray"),
    "none": (None, TypeError, "NoneType"),
    "vector": (torch.ones(4), ValueError, r"\(4,\)"),
    "cube": (torch.ones(4, 3, 2), ValueError, r"\(4, 3, 2\)"),
    "no features": (torch.ones(4, 0), ValueError, r"\(4, 0\)"),
    "integers": (torch.ones(4, 3, dtype=torch.int64), TypeError, "int64"),
    "booleans": (torch.ones(4, 3, dtype=torch.bool), TypeError, "bool"),
    "complex": (torch.ones(4, 3, dtype=torch.complex64), TypeError, "complex64"),
    "sparse": (torch.eye(4, 3).to_sparse(), TypeError, "sparse"),
}
BAD_SCALARS: dict[str, tuple[Any, type[Exception], str]] = {
    "text": ("0.1", TypeError, "str"),
    "none": (None, TypeError, "NoneType"),
    "bool": (True, TypeError, "bool"),
    "nan": (float("nan"), ValueError, "nan"),
    "infinity": (float("inf"), ValueError, "inf"),
    "two numbers": (torch.ones(2), ValueError, r"\(2,\)"),
    "integer tensor": (torch.tensor(1), ValueError, "int64"),
}


def cases() -> Iterator[Any]:
    def case(name: str, call: Callable[[], Any], error: type[Exception], *words: str) -> Any:
        return pytest.param(call, error, words, id=name)

    for function, (call, first, second) in PAIRS.items():
        for kind, (bad, error, came) in BAD_ROWS.items():
            yield case(
                f"{function}-{first}-{kind}", lambda c=call, b=bad: c(b, GOOD), error, function, rf"\b{first}\b", came
            )
            if function != "logsumexp_similarity" or bad is not None:
                yield case(
                    f"{function}-{second}-{kind}",
                    lambda c=call, b=bad: c(GOOD, b), error, function, rf"\b{second}\b", came,
                )  # fmt: skip
        yield case(
            f"{function}-features", lambda c=call: c(GOOD, torch.ones(4, 2)), ValueError,
            function, first, second, r"\(4, 3\)", r"\(4, 2\)", "features",
        )  # fmt: skip
        yield case(
            f"{function}-dtypes", lambda c=call: c(GOOD, GOOD.double()), TypeError,
            function, first, second, "float32", "float64",
        )  # fmt: skip
        yield case(
            f"{function}-meta", lambda c=call: c(GOOD, GOOD.to("meta")), ValueError,
            function, second, "meta", "cpu",
        )  # fmt: skip
        yield case(
            f"{function}-backend", lambda c=call: c(GOOD, GOOD, backend="abacus"), ValueError,
            "backend", "abacus", "reference", "cpu", "triton",
        )  # fmt: skip
        if function == "logsumexp_similarity":
            continue
        yield case(
            f"{function}-rows", lambda c=call: c(GOOD, torch.ones(5, 3)), ValueError,
            function, first, second, r"\(4, 3\)", r"\(5, 3\)", "same rows",
        )  # fmt: skip
        yield case(
            f"{function}-no-rows", lambda c=call: c(GOOD[:0], GOOD[:0]), ValueError, function, first, r"\(0, 3\)"
        )
        for reduction in ("average", None, 1):
            yield case(
                f"{function}-reduction-{reduction}", lambda c=call, r=reduction: c(GOOD, GOOD, reduction=r),
                ValueError, function, "reduction", str(reduction), "mean", "sum", "none",
            )  # fmt: skip
        yield case(
            f"{function}-group-name", lambda c=call: c(GOOD, GOOD, group="everyone"), ValueError,
            "group", "everyone", "world", "ProcessGroup",
        )  # fmt: skip
        yield case(
            f"{function}-group-kind", lambda c=call: c(GOOD, GOOD, group=3), TypeError, "group", "int", "ProcessGroup"
        )

    scalars: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
        ("nt_xent", "temperature", lambda value: SF.nt_xent(GOOD, GOOD, temperature=value)),
        ("info_nce", "temperature", lambda value: SF.info_nce(GOOD, GOOD, temperature=value)),
        ("clip_loss", "logit_scale", lambda value: SF.clip_loss(GOOD, GOOD, value)),
        ("clip_loss", "logit_bias", lambda value: SF.clip_loss(GOOD, GOOD, 1.0, value)),
        ("logsumexp_similarity", "scale", lambda value: SF.logsumexp_similarity(GOOD, None, value)),
    )
    for function, argument, given in scalars:
        for kind, (bad, error, came) in BAD_SCALARS.items():
            if argument == "logit_bias" and bad is None:
                continue
            yield case(
                f"{function}-{argument}-{kind}",
                lambda g=given, b=bad: g(b),
                error,
                function,
                argument,
                came,
                "float|number",
            )
    for function, call in (("nt_xent", SF.nt_xent), ("info_nce", SF.info_nce)):
        for zero in (0, 0.0):
            yield case(
                f"{function}-temperature-{zero!r}", lambda c=call, z=zero: c(GOOD, GOOD, temperature=z),
                ValueError, function, "temperature", "0", "non-zero",
            )  # fmt: skip

    for kind, (bad, error, came) in BAD_ROWS.items():
        if bad is not None:
            yield case(
                f"info_nce-negatives-{kind}", lambda b=bad: SF.info_nce(GOOD, GOOD, negatives=b), error,
                "info_nce", "negatives", came,
            )  # fmt: skip
    yield case(
        "info_nce-negatives-features", lambda: SF.info_nce(GOOD, GOOD, negatives=torch.ones(7, 2)), ValueError,
        "info_nce", "negatives", r"\(7, 2\)", "features",
    )  # fmt: skip
    yield case(
        "info_nce-negatives-dtype", lambda: SF.info_nce(GOOD, GOOD, negatives=GOOD.half()), TypeError,
        "info_nce", "negatives", "float16", "float32",
    )  # fmt: skip
    yield case(
        "info_nce-negatives-symmetric", lambda: SF.info_nce(GOOD, GOOD, negatives=GOOD, symmetric=True), ValueError,
        "info_nce", "negatives", "symmetric",
    )  # fmt: skip

    def lse(**options: Any) -> Any:
        return SF.logsumexp_similarity(GOOD, torch.ones(6, 3), **options)

    name = "logsumexp_similarity"
    bad_exclusions: dict[str, tuple[Any, type[Exception], str]] = {
        "list": ([0, 1, 2, 3], TypeError, "list"),
        "floats": (torch.zeros(4), TypeError, "float32"),
        "int32": (torch.zeros(4, dtype=torch.int32), TypeError, "int32"),
        "mask": (torch.zeros(4, 6, dtype=torch.bool), TypeError, "bool"),
        "rows": (torch.zeros(5, dtype=torch.int64), ValueError, r"\(5,\)"),
        "cube": (torch.zeros(4, 1, 1, dtype=torch.int64), ValueError, r"\(4, 1, 1\)"),
        "number": (torch.tensor(0), ValueError, r"\(\)"),
        "too large": (torch.tensor([0, 0, 6, 0]), IndexError, "6"),
        "too small": (torch.tensor([0, -2, 0, 0]), IndexError, "-2"),
        "device": (torch.zeros(4, dtype=torch.int64, device="meta"), ValueError, "meta"),
    }
    for kind, (bad, error, came) in bad_exclusions.items():
        yield case(f"{name}-exclude-{kind}", lambda b=bad: lse(exclude=b), error, name, "exclude", came)
    for dim in ("columns", 0, None):
        yield case(f"{name}-dim-{dim}", lambda d=dim: lse(dim=d), ValueError, name, "dim", str(dim), "rows", "both")

    yield case(
        "NTXentLoss-temperature-0", lambda: NTXentLoss(temperature=0.0), ValueError, "NTXentLoss", "temperature", "0"
    )
    yield case(
        "NTXentLoss-temperature-text",
        lambda: NTXentLoss(temperature="0.5"),
        TypeError,
        "NTXentLoss",
        "temperature",
        "str",
    )
    for size in (-1, "8", (8, 4, 2), (8, 0), (8, 2.5), 2.5, None, True):
        yield case(
            f"NTXentLoss-memory_bank_size-{size}", lambda s=size: NTXentLoss(memory_bank_size=s),
            (TypeError, ValueError), "NTXentLoss", "memory_bank_size", re.escape(str(size)), r"\(size, dim\)",
        )  # fmt: skip
    yield case(
        "NTXentLoss-bank-features", lambda: NTXentLoss(memory_bank_size=(8, 5))(GOOD, GOOD), ValueError,
        "features", r"\(4, 3\)", r"\(8, 5\)",
    )  # fmt: skip
    yield case(
        "NTXentLoss-lazy-bank-vector",
        lambda: NTXentLoss(memory_bank_size=8)(torch.ones(4), torch.ones(4)),
        ValueError,
        r"\(4,\)",
    )
    yield case("NTXentLoss-rows", lambda: NTXentLoss()(GOOD, GOOD[:2]), ValueError, r"\(4, 3\)", r"\(2, 3\)", "rows")
    yield case(
        "InfoNCELoss-temperature", lambda: InfoNCELoss(temperature=0)(GOOD, GOOD), ValueError, "temperature", "0"
    )
    yield case(
        "InfoNCELoss-symmetric-queue", lambda: InfoNCELoss(symmetric=True)(GOOD, GOOD, GOOD), ValueError,
        "symmetric", "negatives",
    )  # fmt: skip
    yield case(
        "ClipLoss-no-group", lambda: ClipLoss(world_size=2)(GOOD, GOOD, 1.0), ValueError,
        "ClipLoss", "world_size", "2", "init_process_group",
    )  # fmt: skip
    yield case("ClipLoss-scale", lambda: ClipLoss()(GOOD, GOOD, None), TypeError, "logit_scale", "NoneType")

    for size in (0, -3, 2.5, "4", None, True):
        yield case(
            f"MemoryQueue-size-{size}", lambda s=size: sk.MemoryQueue(s, 4), (TypeError, ValueError),
            "MemoryQueue", "size", str(size), "whole number",
        )  # fmt: skip
        yield case(
            f"MemoryQueue-dim-{size}", lambda s=size: sk.MemoryQueue(4, s), (TypeError, ValueError),
            "MemoryQueue", "dim", str(size), "whole number",
        )  # fmt: skip
    for kind, bad, came in (
        ("features", torch.ones(2, 3), r"\(2, 3\)"),
        ("vector", torch.ones(4), r"\(4,\)"),
        ("cube", torch.ones(1, 2, 4), r"\(1, 2, 4\)"),
        ("list", [[1.0] * 4], "list"),
    ):
        yield case(
            f"MemoryQueue-keys-{kind}", lambda b=bad: sk.MemoryQueue(8, 4).enqueue(b), (TypeError, ValueError),
            "MemoryQueue", "keys", came,
        )  # fmt: skip
    two = torch.arange(2)
    for kind, index, error, came in (
        ("past-the-end", torch.tensor([0, 8]), IndexError, "holds 8; samples run from 0 to 7"),
        ("negative", torch.tensor([0, -1]), IndexError, "holds -1"),
        ("float", torch.tensor([0.0, 1.0]), TypeError, "float32"),
        ("mask", torch.tensor([True, False]), TypeError, "bool"),
        ("table", two[:, None], ValueError, r"\(2, 1\)"),
        ("short", two[:1], ValueError, r"\(1,\)"),
        ("list", [0, 1], TypeError, "list"),
    ):
        yield case(
            f"MemoryBank-index-{kind}", lambda i=index: sk.MemoryBank(8, 4).update(i, torch.ones(2, 4)), error,
            "MemoryBank", "index", came,
        )  # fmt: skip
    for kind, rows, came in (
        ("features", torch.ones(2, 3), r"\(2, 3\)"),
        ("vector", torch.ones(4), r"\(4,\)"),
        ("whole", torch.ones(2, 4, dtype=torch.int64), "int64"),
        ("list", [[1.0] * 4], "list"),
    ):
        yield case(
            f"MemoryBank-rows-{kind}", lambda r=rows: sk.MemoryBank(8, 4).update(two, r), (TypeError, ValueError),
            "MemoryBank", "rows", came,
        )  # fmt: skip


@pytest.mark.parametrize("call, error, words", list(cases()))
def test_a_wrong_argument_gets_a_sentence(call: Callable[[], Any], error: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(error) as caught:
        call()
    sentence = str(caught.value)
    for word in words:
        assert re.search(word, sentence), f"{word!r} is not in: {sentence}"
    assert sentence.endswith((".", "?")), sentence
    assert "\n" not in sentence


def test_a_failed_call_leaves_the_bank_alone() -> None:
    loss = NTXentLoss(memory_bank_size=(8, 3))
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    with pytest.raises(ValueError):
        loss(GOOD.clone().requires_grad_(), GOOD[:2])
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


class DTensor(torch.Tensor):
    """Stands in for torch.distributed's DTensor, which needs a device mesh."""


def test_a_dtensor_is_sent_to_group() -> None:
    with pytest.raises(TypeError, match=r"z0 is a DTensor.*to_local.*group="):
        SF.nt_xent(GOOD.as_subclass(DTensor), GOOD)


def test_tensors_of_two_devices_are_told_so() -> None:
    """Fake tensors stand in for a GPU."""
    with FakeTensorMode():
        here, there = torch.ones(4, 3), torch.ones(4, 3, device="cuda")
        for function, (call, first, second) in PAIRS.items():
            with pytest.raises(ValueError, match=rf"{function}: {first} is on cpu and {second} on cuda:0; move both"):
                call(here, there)


NUMBERS = (
    np.float16(0.1),
    np.float32(0.1),
    np.float64(0.1),
    np.longdouble(0.1),
    np.array(0.1, np.float32),
    np.int8(3),
    3,
)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: type(number).__name__)
def test_a_number_counts_in_double_whatever_it_came_as(backend: str, number: Any) -> None:
    """NumPy's float16 took its inverse in float16, which was 1.5e-4 off."""
    a, b = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    plain, options = float(number), {"backend": backend}
    for call in (
        lambda n: SF.nt_xent(a, b, temperature=n, **options),
        lambda n: SF.info_nce(a, b, temperature=n, **options),
        lambda n: SF.info_nce(a, b, negatives=a, temperature=n, **options),
        lambda n: SF.clip_loss(a, b, n, n, **options),
        lambda n: SF.logsumexp_similarity(a, b, n, **options),
        lambda n: SF.negative_cosine_similarity(a, b, eps=n, **options),
        lambda n: SF.barlow_twins(a, b, lambd=n, eps=n, **options),
        lambda n: SF.vicreg(a, b, sim=n, var=n, cov=n, eps=n, **options),
        lambda n: SF.vibcreg(a, b, sim=n, var=n, cov=n, eps=n, **options),
        lambda n: SF.vcreg(a, var=n, cov=n, eps=n, **options),
        lambda n: SF.variance_hinge(a, eps=n, **options),
        lambda n: SF.frossl([a, b], invariance_weight=n, **options),
        lambda n: SF.tico(a, b, rho=n, **options)[0],
        lambda n: SF.sigreg(a, b.T[:, :3], t_max=n, **options),
        lambda n: SF.masked_smooth_l1(a[None], b[None], beta=n, **options),
        lambda n: SF.scatter_tokens(a[None], torch.arange(6)[None], 9, fill=n, **options),
    ):
        assert torch.equal(call(number), call(plain))


@pytest.mark.parametrize("number", (np.float16(0.3), np.float32(0.3), np.array(0.3)), ids=lambda n: type(n).__name__)
def test_a_share_counts_in_double_whatever_it_came_as(backend: str, number: Any) -> None:
    a, b = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    targets = [a.clone(), a.clone()]
    for target, share in zip(targets, (number, float(number)), strict=True):
        SF.ema_update_([target], [b], share, backend=backend)
    assert torch.equal(*targets)
    assert torch.equal(SF.tico(a, b, beta=number)[1], SF.tico(a, b, beta=float(number))[1])
    assert torch.equal(
        SF.lejepa(a[None], b[None], a.T, weight=number), SF.lejepa(a[None], b[None], a.T, weight=float(number))
    )


def test_numpy_integers_are_whole_numbers() -> None:
    four = np.int64(4)
    assert sk.MemoryQueue(four, np.int32(3)).keys.shape == (4, 3)
    assert SF.random_masking(np.uint8(2), four, 0.5)[0].shape == (2, 2)
    assert SF.scatter_tokens(torch.ones(1, 2, 3), torch.tensor([[0, 1]]), four).shape == (1, 4, 3)
    assert SF.queue_update_(torch.zeros(4, 3), torch.ones(2, 3), np.int64(3)) == 1
    assert NTXentLoss(memory_bank_size=(np.int64(8), np.int64(3))).memory_bank.keys.shape == (8, 3)


TRANSFORMS = {
    "vmap": lambda f: torch.func.vmap(f)(torch.ones(2, 4, 3)),
    "grad": lambda f: torch.func.grad(f)(torch.ones(4, 3)),
    "jvp": lambda f: torch.func.jvp(f, (torch.ones(4, 3),), (torch.ones(4, 3),)),
    "jacrev": lambda f: torch.func.jacrev(f)(torch.ones(4, 3)),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_transforms_of_torch_func_get_a_sentence(transform: str) -> None:
    index, mask = torch.arange(4)[None], torch.ones(1, 4)
    for call in (
        lambda x: SF.nt_xent(x, x),
        lambda x: SF.info_nce(x, x),
        lambda x: SF.info_nce(x, x, negatives=x),
        lambda x: SF.clip_loss(x, x, 1.0),
        lambda x: SF.logsumexp_similarity(x).sum(),
        lambda x: SF.gather_similarity(x, x, index.T)[:, 0].sum(),
        lambda x: SF.sampled_info_nce(x, x, x, index.T),
        lambda x: SF.mil_nce(x, x, index.T),
        lambda x: SF.graph_nt_xent(x, index.T),
        lambda x: SF.similarity_distillation(x, x, torch.ones(4, 3)),
        lambda x: SF.ressl(x, x, torch.ones(4, 3)),
        lambda x: SF.multi_label_bce(x, x, index.T),
        lambda x: SF.prototype_cross_entropy(x, x, x.detach()),
        lambda x: SF.koleo(x),
        lambda x: SF.mean_entropy(x, x),
        lambda x: SF.gram_loss(x[None], x[None].detach()),
        lambda x: SF.byol_loss(x, x),
        lambda x: SF.negative_cosine_similarity(x, x),
        lambda x: SF.cross_correlation_sq(x, x)[1],
        lambda x: SF.barlow_twins(x, x),
        lambda x: SF.vicreg(x, x),
        lambda x: SF.vcreg(x),
        lambda x: SF.vibcreg(x, x),
        lambda x: SF.variance_hinge(x),
        lambda x: SF.covariance_penalty(x),
        lambda x: SF.frossl([x, x]),
        lambda x: SF.tico(x, x)[0],
        lambda x: SF.sigreg(x, torch.eye(3)),
        lambda x: SF.lejepa(x[None], x[None], torch.eye(3)),
        lambda x: SF.gather_tokens(x[None], index).sum(),
        lambda x: SF.scatter_tokens(x[None], index, 9).sum(),
        lambda x: SF.restore_tokens(x[None], index, torch.ones(3)).sum(),
        lambda x: SF.apply_masks(x[None], [index]).sum(),
        lambda x: SF.patchify_gather(x[None, None, :, :2], index[:, :2], 2).sum(),
        lambda x: SF.masked_mse(x[None], x[None].detach(), mask),
        lambda x: SF.masked_smooth_l1(x[None], x[None].detach()),
        lambda x: SF.ema_update_([x], [x], 0.5),
        lambda x: SF.queue_update_(x, x, 0),
    ):
        with pytest.raises(RuntimeError, match="outside the transforms of torch.func") as caught:
            TRANSFORMS[transform](call)
        assert "\n" not in str(caught.value)


ARRAYS: dict[str, Callable[[Any], Any]] = {
    "gather_tokens": lambda a: SF.gather_tokens(a(4, 5, 3), torch.zeros(4, 2, dtype=torch.int64)),
    "restore_tokens": lambda a: SF.restore_tokens(a(4, 5, 3), torch.zeros(4, 2, dtype=torch.int64), torch.zeros(3)),
    "patchify_gather": lambda a: SF.patchify_gather(a(1, 1, 4, 4), torch.zeros(1, 1, dtype=torch.int64), 2),
    "masked_mse": lambda a: SF.masked_mse(torch.ones(1, 5, 3), torch.ones(1, 5, 3), a(1, 5)),
    "ema_update_": lambda a: SF.ema_update_([a(6)], [torch.ones(6)], 0.5),
    "queue_update_": lambda a: SF.queue_update_(torch.zeros(8, 3), a(6, 3), 0),
}


@pytest.mark.parametrize("function", ARRAYS)
def test_an_array_of_negative_strides_is_refused(function: str) -> None:
    """torch ends the process over such an array."""
    with pytest.raises(TypeError, match=rf"{function}: .* is a ndarray; pass a torch.Tensor"):
        ARRAYS[function](lambda *shape: np.zeros(shape, np.float32)[..., ::-1])


def test_a_read_only_array_is_not_written() -> None:
    array = np.zeros(3, np.float32)
    array.setflags(write=False)
    with pytest.raises(ValueError, match=r"ema_update_: targets\[0\] is a read-only ndarray"):
        SF.ema_update_([array], [torch.ones(3)], 0.5)
    target = torch.zeros(3)
    SF.ema_update_([target], [array], 0.5)
    assert not array.any() and not target.any()


def test_another_default_device_changes_nothing(backend: str) -> None:
    """Kernels write to the address of what they allocate. On another device than their inputs' it would be invalid."""
    a, b, x, index = torch.randn(6, 4), torch.randn(6, 4), torch.randn(2, 6, 4), torch.randint(6, (2, 3))
    calls: dict[str, Callable[[], Any]] = {
        "nt_xent": lambda: SF.nt_xent(a, b, backend=backend),
        "info_nce": lambda: SF.info_nce(a, b, negatives=b, backend=backend),
        "clip_loss": lambda: SF.clip_loss(a, b, 2.0, backend=backend),
        "logsumexp": lambda: SF.logsumexp_similarity(a, b, backend=backend),
        "sampled_info_nce": lambda: SF.sampled_info_nce(a, b, b, index[[0, 1] * 3], backend=backend),
        "mil_nce": lambda: SF.mil_nce(a, b, index[[0, 1] * 3], backend=backend),
        "graph_nt_xent": lambda: SF.graph_nt_xent(a, index[[0, 1] * 3], backend=backend),
        "similarity_distillation": lambda: SF.similarity_distillation(a, b, b, backend=backend),
        "ressl": lambda: SF.ressl(a, b, b, backend=backend),
        "multi_label_bce": lambda: SF.multi_label_bce(a, b, index[[0, 1] * 3], backend=backend),
        "prototype_cross_entropy": lambda: SF.prototype_cross_entropy(a, b, a, backend=backend),
        "sinkhorn_bias": lambda: SF.sinkhorn_bias(a, b, backend=backend),
        "gram_loss": lambda: SF.gram_loss(x, x.flip(0), clip="both", backend=backend),
        "mean_entropy": lambda: SF.mean_entropy(a, b, backend=backend),
        "koleo": lambda: SF.koleo(a, group_size=3, backend=backend),
        "byol_loss": lambda: SF.byol_loss(a, b, backend=backend),
        "barlow_twins": lambda: SF.barlow_twins(a, b, backend=backend),
        "vicreg": lambda: SF.vicreg(a, b, backend=backend),
        "frossl": lambda: SF.frossl([a, b], backend=backend),
        "tico": lambda: SF.tico(a, b, backend=backend)[0],
        "sigreg": lambda: SF.sigreg(a, b.T, backend=backend),
        "lejepa": lambda: SF.lejepa(a[None], b[None], b.T, backend=backend),
        "gather_tokens": lambda: SF.gather_tokens(x, index, backend=backend),
        "scatter_tokens": lambda: SF.scatter_tokens(x[:, :3], index, 9, backend=backend),
        "restore_tokens": lambda: SF.restore_tokens(x, index, torch.zeros(4, device="cpu"), backend=backend),
        "apply_masks": lambda: SF.apply_masks(x, [index], backend=backend),
        "masked_mse": lambda: SF.masked_mse(x, 2 * x, index.new_ones(2, 6), backend=backend),
        "queue": lambda: SF.queue_update_(a.clone(), b, 1, backend=backend),
        "bank": lambda: NTXentLoss(memory_bank_size=4)(a, b).isfinite(),
    }
    expected = {name: call() for name, call in calls.items()}
    with torch.device("meta"):
        found = {name: call() for name, call in calls.items()}
        for draw in (
            lambda: SF.random_masking(2, 8, 0.5, device="cpu", backend=backend)[0],
            lambda: SF.block_masks(2, 8, 8, min_keep=2, device="cpu")[0][0],
            lambda: SF.tube_masks(2, 2, 8, 8, device="cpu")[0][0],
            lambda: SF.span_mask(2, 40, 0.5, 4, device="cpu"),
        ):
            assert draw().device.type == "cpu"
    for name in calls:
        assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(expected[name]))


def test_numbers_too_long_to_print_get_a_sentence() -> None:
    with pytest.raises(ValueError, match="temperature is a whole number of 16610 bits"):
        SF.nt_xent(GOOD, GOOD, temperature=10**5000)


def test_a_bank_made_in_inference_mode_trains_on() -> None:
    loss = NTXentLoss(memory_bank_size=8)
    with torch.inference_mode():
        loss(torch.randn(4, 3), torch.randn(4, 3))
        queue, kept = sk.MemoryQueue(8, 3), sk.MemoryBank(8, 3, momentum=0.0)
    loss(torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)).backward()
    queue.enqueue(GOOD)
    kept.update(torch.arange(4), GOOD)
    torch.testing.assert_close(kept.rows[:4], torch.nn.functional.normalize(GOOD))
    assert int(loss.memory_bank.position) == int(queue.position) == 4


def test_an_update_takes_numbers_alone() -> None:
    codes = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    with pytest.raises(TypeError, match=r"targets\[0\] has dtype torch.qint8; pass numbers"):
        SF.ema_update_([codes], [codes], 0.5)
    negated = torch.complex(torch.ones(3), torch.ones(3)).conj().imag
    with pytest.raises(ValueError, match=r"targets\[0\] is a conjugated or negated view"):
        SF.ema_update_([negated], [torch.ones(3)], 0.5)
    target = torch.zeros(3)
    SF.ema_update_([target], [negated], 0.0)
    assert torch.equal(target, -torch.ones(3))
