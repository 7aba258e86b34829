# SPDX-License-Identifier: Apache-2.0
"""The correlation family's modules against each library's formula, written out in float64."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import sslkernels.functional as SF
from sslkernels.losses import BarlowTwinsLoss, FroSSLLoss, TiCoLoss, VCRegLoss, VIbCRegLoss, VICRegLoss

SHAPES = [(6, 4), (4, 7), (2, 3), (5, 1)]  # fewer and more rows than features


def pair(*shape: int, scale: float = 0.7, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Draw columns with a mean and of unlike deviations, on both sides of VICReg's hinge."""
    widths = torch.linspace(0.3, 2.0, shape[-1])
    return tuple((scale * torch.randn(*shape) * widths + 0.5).to(dtype).requires_grad_() for _ in range(2))  # type: ignore[return-value]


def off_diagonal(matrix: Tensor) -> Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def barlow(a: Tensor, b: Tensor, lambd: float = 5e-3, convention: str = "lightly") -> Tensor:
    outside = convention == "stable-pretraining"

    def standard(z: Tensor) -> Tensor:
        centred = z - z.mean(0)
        return centred / (z.std(0) + 1e-5 if outside else (z.var(0, unbiased=False) + 1e-5).sqrt())

    c = standard(a).T @ standard(b) / len(a)
    loss = (c.diagonal() - 1).square().sum() + lambd * off_diagonal(c).square().sum()
    return 0.025 * loss if convention == "solo-learn" else loss


def hinge(z: Tensor, eps: float = 1e-4) -> Tensor:
    return F.relu(1 - (z.var(0) + eps).sqrt()).mean()


def covariance_penalty(z: Tensor) -> Tensor:
    return off_diagonal(z.T.cov().reshape(z.shape[1], -1)).square().sum() / z.shape[1]


def vicreg(
    a: Tensor, b: Tensor, sim: float = 25, var: float = 25, cov: float = 1, eps: float = 1e-4, halved: bool = True
) -> Tensor:
    spread = hinge(a, eps) + hinge(b, eps)
    return (
        sim * (a - b).square().mean()
        + var * (spread / 2 if halved else spread)
        + cov * (covariance_penalty(a) + covariance_penalty(b))
    )


def vcreg(z: Tensor, std: float = 25, cov: float = 1, eps: float = 1e-4) -> Tensor:
    return std * hinge(z, eps) / 2 + cov * covariance_penalty(z)


def vibcreg(a: Tensor, b: Tensor, sim: float = 25, var: float = 25, cov: float = 200) -> Tensor:
    def correlated(z: Tensor) -> Tensor:
        unit = F.normalize(z - z.mean(0), dim=0)
        return off_diagonal(unit.T @ unit).square().sum() / z.shape[1] ** 2

    return (
        sim * (a - b).square().mean() + var * (hinge(a) + hinge(b)) + cov * (correlated(a) + correlated(b))
    )  # fmt: skip


def frossl(*views: Tensor, weight: float = 1.0) -> Tensor:
    unit = [z / z.square().sum(0).sqrt() for z in views]
    middle = sum(unit) / len(unit)
    total = torch.zeros((), dtype=torch.float64)
    for u in unit:
        gram = u.T @ u
        total = total + 2 * torch.log(torch.linalg.matrix_norm(gram / gram.trace()))
        total = total + weight * len(unit) * u.shape[1] * (u - middle).square().mean()
    return total


def tico(a: Tensor, b: Tensor, before: Tensor | float = 0.0, beta: float = 0.9, rho: float = 8.0) -> Tensor:
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    c = (beta * before + (1 - beta) * a.T @ a / len(a)).detach()
    return 1 - (a * b).sum(1).mean() + rho * torch.einsum("ni,ij,nj->n", a, c, a).mean()


def assert_alike(loss: Callable[..., Tensor], formula: Callable[..., Tensor], *views: Tensor) -> None:
    """Compare value and gradients."""
    exact_views = [z.detach().double().requires_grad_() for z in views]
    exact = formula(*exact_views)
    value = loss(*views)
    assert value.shape == () and value.dtype == torch.promote_types(views[0].dtype, torch.float32)
    tolerance = {"rtol": 1e-10, "atol": 1e-10} if value.dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(value.double(), exact, **tolerance)
    found, expected = torch.autograd.grad(value, views), torch.autograd.grad(exact, exact_views)
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient.double(), wanted, **tolerance)


ALIKE: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "barlow": (BarlowTwinsLoss(), barlow),
    "barlow lambda": (BarlowTwinsLoss(0.5), lambda a, b: barlow(a, b, 0.5)),
    "barlow official": (BarlowTwinsLoss(convention="official"), barlow),
    "barlow solo-learn": (BarlowTwinsLoss(convention="solo-learn"), lambda a, b: barlow(a, b, convention="solo-learn")),
    "barlow stable-pretraining": (
        BarlowTwinsLoss(convention="stable-pretraining"),
        lambda a, b: barlow(a, b, convention="stable-pretraining"),
    ),
    "vicreg": (VICRegLoss(), vicreg),
    "vicreg weights": (VICRegLoss(1.0, 2.0, 3.0, False, 0.1), lambda a, b: vicreg(a, b, 1, 2, 3, 0.1)),
    "vicreg official": (VICRegLoss(convention="official"), vicreg),
    "vicreg solo-learn": (VICRegLoss(convention="solo-learn"), lambda a, b: vicreg(a, b, halved=False)),
    "vicreg stable-pretraining": (VICRegLoss(convention="stable-pretraining"), vicreg),
    "vibcreg": (VIbCRegLoss(), vibcreg),
    "vibcreg weights": (VIbCRegLoss(1.0, 2.0, 3.0), lambda a, b: vibcreg(a, b, 1, 2, 3)),
    "frossl": (lambda a, b: FroSSLLoss()([a, b]), frossl),
    "frossl weight": (lambda a, b: FroSSLLoss(0.3)([a, b]), lambda a, b: frossl(a, b, weight=0.3)),
    "tico": (lambda a, b: TiCoLoss()(a, b), tico),
    "tico weights": (lambda a, b: TiCoLoss(0.5, 3.0)(a, b), lambda a, b: tico(a, b, beta=0.5, rho=3.0)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ALIKE)
def test_value_and_gradient_are_the_formulas(name: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    if shape[0] == 2 and dtype == torch.float32 and name.startswith(("barlow", "vibcreg")):
        pytest.skip("two standardised rows are +-1: the gradient is rounding")
    assert_alike(*ALIKE[name], *pair(*shape, dtype=dtype))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_vcreg_is_one_embeddings_variance_and_covariance(shape: tuple[int, int]) -> None:
    z = pair(*shape)[0]
    assert_alike(VCRegLoss(), vcreg, z)
    assert_alike(VCRegLoss(2.0, 3.0, 0.1), lambda x: vcreg(x, 2, 3, 0.1), z)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_frossl_takes_any_number_of_views(count: int) -> None:
    views = [pair(5, 8, dtype=torch.float64)[0] for _ in range(count)]
    assert_alike(lambda *z: FroSSLLoss()(list(z)), frossl, *views)
    assert torch.equal(FroSSLLoss()(tuple(views)), FroSSLLoss()(views))


@pytest.mark.parametrize("positions", [(1,), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("convention", ["lightly", "solo-learn"])
def test_vicreg_averages_over_positions(positions: tuple[int, ...], convention: str) -> None:
    a, b = pair(5, *positions, 4, dtype=torch.float64)

    def formula(x: Tensor, y: Tensor) -> Tensor:
        places = zip(x.flatten(1, -2).unbind(1), y.flatten(1, -2).unbind(1), strict=True)
        return torch.stack([vicreg(*place, halved=convention == "lightly") for place in places]).mean()

    assert_alike(VICRegLoss(convention=convention), formula, a, b)


@pytest.mark.parametrize("side", ["samples", "features"])
@pytest.mark.parametrize("shape", [(6, 4), (4, 7)], ids=str)
def test_either_side_gives_the_same(side: str, shape: tuple[int, int]) -> None:
    a, b = pair(*shape, dtype=torch.float64)
    assert_alike(lambda x: SF.vcreg(x, side=side), vcreg, a)
    assert_alike(lambda x, y: SF.vibcreg(x, y, side=side), vibcreg, a, b)
    assert_alike(lambda x, y: SF.frossl([x, y], side=side), frossl, a, b)


def test_backends_agree(backend: str) -> None:
    a, b = pair(5, 8)
    assert_alike(lambda x: SF.vcreg(x, backend=backend), vcreg, a)
    assert_alike(lambda x, y: SF.vibcreg(x, y, backend=backend), vibcreg, a, b)
    assert_alike(lambda x, y: SF.frossl([x, y], backend=backend), frossl, a, b)
    assert_alike(lambda x, y: SF.tico(x, y, backend=backend)[0], tico, a, b)


class Largest(TorchDispatchMode):
    """Records the numbers in the largest result of any op."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else (result,):
            self.numbers = max(self.numbers, x.numel() if isinstance(x, Tensor) else 0)
        return result


@pytest.mark.parametrize("name", ["barlow", "vicreg", "vibcreg", "frossl"])
def test_no_matrix_of_features_where_that_of_samples_is_smaller(name: str) -> None:
    a, b = pair(4, 50)
    with Largest() as largest:
        ALIKE[name][0](a, b).backward()
    assert 0 < largest.numbers <= 2 * 4 * 50


def test_vibcreg_and_frossl_bear_a_constant_column() -> None:
    a, b = (z.detach() for z in pair(5, 8, dtype=torch.float64))
    for z in (a, b):
        z[:, 2] = 0
        z.requires_grad_()
    assert_alike(VIbCRegLoss(), vibcreg, a, b)
    kept = [column for column in range(8) if column != 2]
    loss = FroSSLLoss()([a, b])
    torch.testing.assert_close(loss, frossl(a[:, kept], b[:, kept]))
    assert all(gradient[:, kept].isfinite().all() for gradient in torch.autograd.grad(loss, (a, b)))


def test_tico_remembers_the_covariance() -> None:
    loss, before = TiCoLoss(), torch.zeros(4, 4, dtype=torch.float64)
    for _ in range(3):
        a, b = pair(6, 4, dtype=torch.float64)
        assert_alike(lambda x, y: loss(x, y, update_covariance_matrix=False), lambda x, y: tico(x, y, before), a, b)  # noqa: B023
        assert_alike(loss, lambda x, y: tico(x, y, before), a, b)  # noqa: B023
        unit = F.normalize(a.detach(), dim=1)
        before = 0.9 * before + 0.1 * unit.T @ unit / 6
        torch.testing.assert_close(loss.C, before)
        assert not loss.C.requires_grad


def test_tico_gives_both_views_their_gradient_after_it_was_updated() -> None:
    """The backward uses the covariance of its own forward."""
    loss = TiCoLoss()
    a, b = pair(6, 4, dtype=torch.float64)
    first = loss(a, b)
    loss(*pair(6, 4, dtype=torch.float64))
    expected = torch.autograd.grad(tico(a, b), (a, b))
    for gradient, wanted in zip(torch.autograd.grad(first, (a, b)), expected, strict=True):
        torch.testing.assert_close(gradient, wanted)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 4)
        self.criterion = TiCoLoss()


def saved_and_loaded(module: nn.Module) -> dict[str, Tensor]:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_tico_resumes(used: bool) -> None:
    """A checkpoint loads into a module that has seen no embedding yet, and into one that has."""
    model, resumed = Model(), Model()
    model.criterion(*pair(6, 4))
    if used:
        resumed.criterion(*pair(6, 4))
    resumed.load_state_dict(saved_and_loaded(model))
    for _ in range(2):
        a, b = pair(6, 4)
        assert torch.equal(model.criterion(a, b), resumed.criterion(a, b))
        assert torch.equal(model.criterion.C, resumed.criterion.C)


def test_tico_before_its_first_batch_saves_and_loads_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = saved_and_loaded(Model())
        assert sorted(state) == ["encoder.bias", "encoder.weight"]
        Model().load_state_dict(state)


def test_tico_starts_at_zero_where_the_checkpoint_has_no_covariance() -> None:
    model = Model()
    model.criterion(*pair(6, 4))
    with pytest.warns(UserWarning, match="holds no covariance"):
        model.load_state_dict(Model().state_dict(), strict=True)
    a, b = pair(6, 4)
    assert torch.equal(model.criterion(a, b), TiCoLoss()(a, b))


def test_tico_moves_with_the_model() -> None:
    model = Model()
    model.criterion(*pair(6, 4))
    assert model.to("meta").criterion.C.device.type == "meta"
    other = Model()
    other.criterion(*pair(6, 4))
    assert other.double().criterion.C.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_and_autocast(dtype: torch.dtype) -> None:
    a, b = pair(16, 8)
    for make in (BarlowTwinsLoss, VICRegLoss, VIbCRegLoss, TiCoLoss):
        rounded = [z.detach().to(dtype).requires_grad_() for z in (a, b)]
        value = make()(*rounded)
        value.backward()
        exact = make()(*(z.detach().double() for z in rounded))
        assert value.dtype == torch.float32 and rounded[0].grad.dtype == dtype
        torch.testing.assert_close(value.double(), exact, rtol=3e-2, atol=3e-2)
        loss = make()
        with torch.autocast("cpu", dtype):
            inside = loss(a, b)
        inside.backward()
        torch.testing.assert_close(inside.double(), make()(a.double(), b.double()), rtol=3e-2, atol=3e-2)
        if make is TiCoLoss:
            assert loss.C.dtype == torch.float32
    with torch.autocast("cpu", dtype):
        inside = FroSSLLoss()([a, b])
    inside.backward()
    torch.testing.assert_close(inside.double(), frossl(a.double(), b.double()), rtol=3e-2, atol=3e-2)


def test_gather_distributed_without_a_process_group_changes_nothing() -> None:
    a, b = pair(5, 8)
    for make in (BarlowTwinsLoss, VICRegLoss, VIbCRegLoss, TiCoLoss):
        assert torch.equal(make(gather_distributed=True)(a, b), make(gather_distributed=False)(a, b))
    assert torch.equal(VCRegLoss(gather_distributed=True)(a), VCRegLoss(gather_distributed=False)(a))
    assert torch.equal(FroSSLLoss(gather_distributed=True)([a, b]), FroSSLLoss()([a, b]))


def signature(constructor: Callable[..., Any]) -> list[tuple[str, object]]:
    parameters = inspect.signature(constructor).parameters.values()
    return [(p.name, p.default) for p in parameters if p.kind is not p.KEYWORD_ONLY]


def test_constructors_take_the_arguments_people_pass() -> None:
    gather = ("gather_distributed", False)
    assert signature(BarlowTwinsLoss) == [("lambda_param", 5e-3), gather]
    assert signature(VICRegLoss) == [
        ("lambda_param", 25.0), ("mu_param", 25.0), ("nu_param", 1.0), gather, ("eps", 1e-4),
    ]  # fmt: skip
    assert signature(TiCoLoss) == [("beta", 0.9), ("rho", 8.0), gather]
    assert signature(FroSSLLoss)[0] == ("invariance_weight", 1.0)
    assert signature(VCRegLoss)[:3] == [("std_coeff", 25.0), ("cov_coeff", 1.0), ("epsilon", 1e-4)]
    weights = [("sim_loss_weight", 25.0), ("var_loss_weight", 25.0), ("cov_loss_weight", 200.0)]
    assert signature(VIbCRegLoss)[:3] == weights
    forward = signature(TiCoLoss.forward)[1:]
    assert [name for name, _ in forward] == ["z_a", "z_b", "update_covariance_matrix"] and forward[2][1] is True


@pytest.mark.parametrize("make", [BarlowTwinsLoss, VICRegLoss, VIbCRegLoss, TiCoLoss])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_copies_behave_alike_and_share_nothing(make: type, duplicate: Callable[..., Any]) -> None:
    loss = make()
    loss(*(z.detach() for z in pair(6, 4)))
    other = duplicate(loss)
    a, b = pair(6, 4)
    assert torch.equal(loss(a, b), other(a, b))
    for mine, theirs in zip(loss.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs) and mine.data_ptr() != theirs.data_ptr()


GOOD, CUBE = torch.ones(4, 3), torch.ones(4, 2, 3)
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "lambda": (lambda: BarlowTwinsLoss(lambda_param="x"), TypeError, "BarlowTwinsLoss: lambda_param is a str; pass a"),
    "convention": (
        lambda: BarlowTwinsLoss(convention="mine"), ValueError,
        "BarlowTwinsLoss: convention is 'mine'; accepted are 'lightly', 'official', 'solo-learn', 'stable-pretraining'",
    ),
    "mu": (lambda: VICRegLoss(mu_param=float("nan")), ValueError, "VICRegLoss: mu_param is nan; pass a finite number"),
    "eps": (lambda: VICRegLoss(eps=-1.0), ValueError, "VICRegLoss: eps is -1.0; pass a finite number of at least 0"),
    "vicreg convention": (lambda: VICRegLoss(convention="vissl"), ValueError, "VICRegLoss: convention is 'vissl'; acc"),
    "epsilon": (lambda: VCRegLoss(epsilon=-1), ValueError, "VCRegLoss: epsilon is -1; pass"),
    "cov": (lambda: VIbCRegLoss(cov_loss_weight=None), TypeError, "VIbCRegLoss: cov_loss_weight is a NoneType; pass"),
    "weight": (lambda: FroSSLLoss(float("inf")), ValueError, "FroSSLLoss: invariance_weight is inf; pass"),
    "beta": (lambda: TiCoLoss(beta=1.5), ValueError, "TiCoLoss: beta is 1.5; pass a number from 0 to 1"),
    "rho": (lambda: TiCoLoss(rho=True), TypeError, "TiCoLoss: rho is a bool; pass a number"),
    "list": (lambda: BarlowTwinsLoss()([1.0], GOOD), TypeError, "BarlowTwinsLoss: z_a is a list; pass a torch.Tensor"),
    "vector": (lambda: VICRegLoss()(GOOD[0], GOOD[0]), ValueError, "VICRegLoss: z_a has shape (3,); expected (N, D)"),
    "cube": (lambda: BarlowTwinsLoss()(CUBE, CUBE), ValueError, "BarlowTwinsLoss: z_a has shape (4, 2, 3); expected"),
    "rows": (
        lambda: VICRegLoss()(GOOD, GOOD[:3]), ValueError,
        "VICRegLoss: z_a has shape (4, 3) and z_b (3, 3); both need the same rows",
    ),
    "positions": (
        lambda: VICRegLoss()(CUBE, CUBE[:, :1]), ValueError,
        "VICRegLoss: z_a has shape (4, 2, 3) and z_b (4, 1, 3); both need the same shape (N, ..., D)",
    ),
    "no position": (lambda: VICRegLoss()(CUBE[:, :0], CUBE[:, :0]), ValueError, "at least one position"),
    "one row": (lambda: VICRegLoss()(GOOD[:1], GOOD[:1]), ValueError, "z_a has shape (1, 3); pass a batch of at least"),
    "dtype": (lambda: TiCoLoss()(GOOD, GOOD.double()), TypeError, "TiCoLoss: z_a has dtype torch.float32 and z_b"),
    "no row": (lambda: TiCoLoss()(GOOD[:0], GOOD[:0]), ValueError, "TiCoLoss: z_a has shape (0, 3); pass a batch"),
    "one view": (lambda: FroSSLLoss()([GOOD]), ValueError, "FroSSLLoss: z_views has length 1; pass at least two views"),
    "no list": (lambda: FroSSLLoss()(GOOD), TypeError, "FroSSLLoss: z_views is a Tensor; pass a list of tensors"),
    "third view": (
        lambda: FroSSLLoss()([GOOD, GOOD, GOOD[:, :2]]), ValueError,
        "FroSSLLoss: z_views[0] has shape (4, 3) and z_views[2] (4, 2); both need the same number of features",
    ),
    "covariance": (
        lambda: SF.tico(GOOD, GOOD, torch.ones(2, 2)), ValueError,
        "tico: covariance has shape (2, 2) and z0 (4, 3); expected (3, 3)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_argument_gets_a_sentence(name: str) -> None:
    call, error, words = REFUSED[name]
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(6, 4), (4, 7), (64, 32)], ids=str)
@pytest.mark.parametrize("name", ["BarlowTwinsLoss", "VICRegLoss", "FroSSLLoss", "TiCoLoss"])
def test_lightly_gives_the_same(name: str, shape: tuple[int, int]) -> None:
    theirs = getattr(pytest.importorskip("lightly.loss"), name, None)
    if theirs is None:
        pytest.skip(f"this lightly has no {name}")
    import sslkernels.losses

    loss, other = getattr(sslkernels.losses, name)(), theirs()
    for _ in range(3):  # TiCo remembers from call to call
        a, b = pair(*shape, dtype=torch.float64)
        arguments = ([a, b],) if name == "FroSSLLoss" else (a, b)
        value, expected = loss(*arguments), other(*arguments)
        torch.testing.assert_close(value, expected)
        for mine, wanted in zip(torch.autograd.grad(value, (a, b)), torch.autograd.grad(expected, (a, b)), strict=True):
            torch.testing.assert_close(mine, wanted)


def test_lightly_gives_the_same_over_positions() -> None:
    lightly = pytest.importorskip("lightly.loss")
    a, b = pair(5, 2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(VICRegLoss()(a, b), lightly.VICRegLoss()(a, b))
