# SPDX-License-Identifier: Apache-2.0
"""Prototypes of each kind against plain torch in float64, the states of others that they take, and what a step does."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from originals import lightly_losses
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import sslkernels as sk
from sslkernels import Prototypes

TRAINED = {"unit": {"weight_v"}, "scaled": {"weight_g", "weight_v"}, "linear": {"weight"}, "sphere": {"weight"}}
KINDS: Any = tuple(TRAINED)
NORMED, PLAIN = KINDS[:2], KINDS[2:]
kinds = pytest.mark.parametrize("kind", KINDS)


def moved(kind: Any, **options: Any) -> Prototypes:
    """Prototypes of no particular length; those of kind "unit" keep theirs."""
    made = Prototypes(4, 9, kind=kind, **options).double()
    for weight in made.parameters():
        if weight.requires_grad:
            nn.init.normal_(weight)
    return made


def rows_of(weights: dict[str, Tensor]) -> Tensor:
    if "weight" in weights:
        return weights["weight"]
    v = weights["weight_v"]
    return weights["weight_g"] * v / v.square().sum(1, keepdim=True).sqrt()


@kinds
@pytest.mark.parametrize("bias", [False, True])
def test_logits_and_gradients_are_those_of_plain_torch(kind: Any, bias: bool) -> None:
    made, x = moved(kind, bias=bias), torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    copies = {name: weight.detach().clone().requires_grad_() for name, weight in made.named_parameters()}
    expected = torch.einsum("bnd,kd->bnk", x, rows_of(copies)) + copies.get("bias", 0)
    torch.testing.assert_close(made(x), expected)
    trained = TRAINED[kind] | ({"bias"} if bias else set())
    assert {name for name, weight in made.named_parameters() if weight.requires_grad} == trained
    ours = torch.autograd.grad(made(x).sin().sum(), [x, *(made.get_parameter(name) for name in sorted(trained))])
    theirs = torch.autograd.grad(expected.sin().sum(), [x, *(copies[name] for name in sorted(trained))])
    for found, exact in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, exact)


@kinds
def test_models_that_hold_them_can_be_scripted(kind: Any) -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), moved(kind, bias=True).float()), torch.randn(2, 3)
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x), model(x), rtol=0, atol=0)
    assert scripted.state_dict().keys() == model.state_dict().keys()


@kinds
def test_they_begin_as_the_layers_of_the_papers(kind: Any) -> None:
    made = Prototypes(16, 500, kind=kind)
    if kind == "linear" or kind in NORMED:
        drawn = made.get_parameter("weight" if kind == "linear" else "weight_v")
        assert drawn.abs().max() <= 0.25 and drawn.std().item() == pytest.approx(0.25 / 3**0.5, rel=0.05)
    if kind != "linear":
        torch.testing.assert_close(made.weight.norm(dim=1), torch.ones(500))
    assert not Prototypes(2, 3, bias=True).bias.any()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("kind", NORMED)
def test_states_of_torch_s_weight_norm_give_its_logits(kind: Any, norm: Any) -> None:
    theirs, ours = nn.Sequential(norm(nn.Linear(4, 9, bias=False))), nn.Sequential(Prototypes(4, 9, kind=kind))
    saved = theirs.state_dict()
    names = list(saved)
    ours.load_state_dict(saved)
    x = torch.randn(3, 4)
    torch.testing.assert_close(ours(x), theirs(x))
    assert list(saved) == names
    assert ours[0].weight_g.requires_grad == (kind == "scaled")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", PLAIN)
def test_states_of_linear_layers_give_their_logits(kind: Any, bias: bool) -> None:
    theirs, ours, x = nn.Linear(4, 9, bias=bias), Prototypes(4, 9, kind=kind, bias=bias), torch.randn(3, 4)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.fixture
def swav_prototypes() -> Iterator[Any]:
    """Lightly's class. What stands in for its packages is there as long as the fixture."""
    for _ in lightly_losses():
        yield importlib.import_module("lightly.models.modules.heads").SwaVPrototypes


def test_states_of_lightly_s_prototypes_give_its_logits(swav_prototypes: Any) -> None:
    theirs, ours, x = swav_prototypes(4, 9), Prototypes(4, 9, kind="sphere", bias=True), torch.randn(3, 4)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    with pytest.raises(ValueError, match=r"^Prototypes: the state has a bias and these have none; make them with bias"):
        Prototypes(4, 9, kind="sphere").load_state_dict(theirs.state_dict())


def test_of_several_heads_each_loads_by_itself(swav_prototypes: Any) -> None:
    theirs, ours, x = swav_prototypes(4, [9, 7]), Prototypes(4, 7, kind="linear", bias=True), torch.randn(3, 4)
    state = {f"prototypes.{name}": value for name, value in theirs.state_dict().items()}
    with pytest.raises(ValueError) as raised:
        nn.ModuleDict({"prototypes": Prototypes(4, 9, kind="sphere", bias=True)}).load_state_dict(state)
    assert str(raised.value) == (
        "Prototypes: the state has 2 heads and one is accepted; load each into Prototypes of its own, the first from "
        '{"weight": state["prototypes.heads.0.weight"]}.'
    )
    ours.load_state_dict({name: state[f"prototypes.heads.1.{name}"] for name in ("weight", "bias")})
    torch.testing.assert_close(ours(x), theirs(x)[1])


@kinds
@pytest.mark.parametrize("assign", [False, True])
def test_their_own_state_comes_back_whole(kind: Any, assign: bool) -> None:
    made, other = moved(kind, bias=True), Prototypes(4, 9, kind=kind, bias=True).double()
    state = {name: value.clone() for name, value in made.state_dict().items()}
    assert set(state) == TRAINED[kind] | {"bias"} | ({"weight_g"} if kind == "unit" else set())
    other.load_state_dict(state, strict=True, assign=assign)
    assert torch.equal(other.weight, made.weight) and torch.equal(other.bias, made.bias)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Prototypes(4, 8, kind=kind, bias=True).load_state_dict(state)


@kinds
def test_only_those_of_the_sphere_are_put_back_after_a_step(kind: Any) -> None:
    made = moved(kind)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    expected = made.weight / made.weight.square().sum(1, keepdim=True).sqrt()
    made.normalize()
    if kind == "sphere":
        torch.testing.assert_close(made.weight.data, expected.data)
        assert made.weight.requires_grad and made.weight is made.get_parameter("weight")
    else:
        assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


@kinds
def test_frozen_they_stand_still_and_rows_still_learn(kind: Any) -> None:
    made, x = moved(kind, bias=True), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW(made.parameters(), 0.1, weight_decay=0.1)
    for still in (False, True, False):
        before = {name: value.clone() for name, value in made.state_dict().items()}
        made(x).sin().sum().backward()
        if still:
            made.freeze()
        optimizer.step()
        optimizer.zero_grad()
        stood = {name for name, value in made.state_dict().items() if torch.equal(value, before[name])}
        assert stood == (set(before) if still else set(before) - TRAINED[kind] - {"bias"})
    assert x.grad is not None


@kinds
def test_they_are_copied_averaged_moved_and_cast(kind: Any) -> None:
    made = moved(kind, bias=True)
    twin, teacher = copy.deepcopy(made), sk.EMA(made, momentum=0.75)
    start = {name: value.clone() for name, value in made.state_dict().items()}
    for weight in made.parameters():
        if weight.requires_grad:
            weight.data += 1
    torch.testing.assert_close(twin.weight.data, rows_of(start))
    assert not torch.allclose(twin.weight, made.weight)
    teacher.update(made)
    mean = {name: 0.75 * start[name] + 0.25 * value for name, value in made.state_dict().items()}
    torch.testing.assert_close(teacher.module.weight.data, rows_of(mean))
    assert teacher.module.kind == kind
    twin.half().to("meta")
    assert twin.weight.is_meta and twin.weight.dtype == torch.float16
    twin.to_empty(device="cpu").double().load_state_dict(start)
    torch.testing.assert_close(twin.weight.data, rows_of(start))


@kinds
def test_they_are_drawn_anew_as_the_layers_of_torch(kind: Any) -> None:
    with torch.device("meta"):
        made = Prototypes(4, 9, kind=kind, bias=True)
    made.to_empty(device="cpu")
    for weight in made.parameters():
        weight.data.fill_(torch.nan)
    torch.manual_seed(0)
    made.reset_parameters()
    torch.manual_seed(0)
    twin = Prototypes(4, 9, kind=kind, bias=True)
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in twin.state_dict().items())


@pytest.mark.parametrize("kind", PLAIN)
def test_others_may_put_a_tensor_in_the_place_of_the_weight(kind: Any) -> None:
    """As torch.nn.utils.prune and FullyShardedDataParallel do, which the optimizer then has apart from them."""
    made, x = Prototypes(4, 9, kind=kind), torch.randn(3, 4)
    pruned = prune.random_unstructured(copy.deepcopy(made), "weight", 0.5)
    torch.testing.assert_close(pruned(x), x @ (pruned.weight_mask * made.weight).T)
    del made.weight
    made.weight = torch.ones(9, 4)
    torch.testing.assert_close(made(x), x @ torch.ones(4, 9))
    with pytest.raises(RuntimeError, match="^Prototypes: freeze found no parameters; make FullyShardedDataParallel"):
        made.freeze()
    if kind == "sphere":
        shard = Prototypes(4, 9, kind=kind)
        shard.weight = nn.Parameter(torch.ones(5))
        for each in (made, pruned, shard):
            with pytest.raises(RuntimeError, match="^Prototypes: normalize found no whole weight among the parameters"):
                each.normalize()


def test_wrong_arguments_get_a_sentence() -> None:
    for arguments, said in (
        ({"dim": 0}, "dim is 0; pass a whole number of at least 1."),
        ({"count": 2.5}, "count is 2.5; pass a whole number of at least 1."),
        ({"kind": "cosine"}, "kind is 'cosine'; accepted are 'unit', 'scaled', 'linear', 'sphere'."),
        ({"bias": 1}, "bias is 1; pass True or False."),
    ):
        with pytest.raises((TypeError, ValueError)) as raised:
            Prototypes(**{"dim": 4, "count": 9, **arguments})  # type: ignore[arg-type]
        assert str(raised.value) == f"Prototypes: {said}"


def test_a_step_on_the_sphere_is_swav_s() -> None:
    """The weight of SwAV's official code: a linear layer whose rows are normalised with a copy after each step."""
    theirs, x = nn.Linear(4, 9, bias=False).double(), torch.randn(5, 4, dtype=torch.float64)
    ours = Prototypes(4, 9, kind="sphere").double()
    ours.load_state_dict(theirs.state_dict())
    for layer in (theirs, ours):
        optimizer = torch.optim.SGD(layer.parameters(), 0.5)
        for _ in range(2):
            optimizer.zero_grad()
            layer(x).logsumexp(1).sum().backward()
            optimizer.step()
            if layer is theirs:
                theirs.weight.data.copy_(F.normalize(theirs.weight.data.clone(), dim=1, p=2))
            else:
                ours.normalize()
    torch.testing.assert_close(ours.weight.data, theirs.weight.data)
    torch.testing.assert_close(ours.weight.data.norm(dim=1), torch.ones(9, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["unit", "sphere"])
def test_they_compile_in_one_graph(kind: Any) -> None:
    made, x = moved(kind), torch.randn(3, 4, dtype=torch.float64)
    compiled = torch.compile(lambda rows: (made(rows), made.weight), backend="eager", fullgraph=True)
    for found, expected in zip(compiled(x), (made(x), made.weight), strict=True):
        torch.testing.assert_close(found, expected)


def test_it_prints_its_sizes() -> None:
    assert str(sk.Prototypes(4, 7, kind="sphere")) == "Prototypes(dim=4, count=7, kind='sphere', bias=False)"
