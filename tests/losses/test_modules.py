# SPDX-License-Identifier: Apache-2.0
"""The modules give what users of lightly and open_clip expect of the same call."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import warnings

import pytest
import rows_oracle
import similarity_oracle as oracle
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sslkernels.functional as SF
from sslkernels.losses import ClipLoss, InfoNCELoss, NTXentLoss


def views(n: int = 6, d: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(n, d, requires_grad=True), torch.randn(n, d)


def bank_of(loss: NTXentLoss) -> Tensor:
    assert loss.memory_bank is not None
    return loss.memory_bank.keys.clone()


def test_our_own_module_takes_the_arguments_that_were_promised() -> None:
    taken = [(p.name, p.default) for p in inspect.signature(InfoNCELoss).parameters.values()]
    assert taken == [("temperature", 0.1), ("symmetric", False), ("gather_distributed", False), ("ring", False)]


def test_nt_xent_module_is_the_function() -> None:
    out0, out1 = views()
    exact = oracle.nt_xent(out0, out1, 0.5).mean()
    torch.testing.assert_close(NTXentLoss()(out0, out1).double(), exact, rtol=1e-5, atol=1e-6)
    assert torch.equal(NTXentLoss(temperature=0.2)(out0, out1), SF.nt_xent(out0, out1, temperature=0.2))
    assert NTXentLoss().state_dict() == {} and list(NTXentLoss().parameters()) == []


def test_gather_distributed_without_a_process_group_changes_nothing() -> None:
    out0, out1 = views()
    assert torch.equal(NTXentLoss(gather_distributed=True)(out0, out1), NTXentLoss()(out0, out1))
    assert torch.equal(InfoNCELoss(gather_distributed=True)(out0, out1), InfoNCELoss()(out0, out1))


@pytest.mark.parametrize("size", [(16, 4), [16, 4]], ids=["tuple", "list"])
def test_bank_holds_the_negatives(size: tuple[int, int]) -> None:
    loss = NTXentLoss(temperature=0.5, memory_bank_size=size)
    out0, out1 = views()
    bank = bank_of(loss)
    assert bank.shape == (16, 4)
    torch.testing.assert_close(bank.norm(dim=1), torch.ones(16))
    value = loss(out0, out1)
    torch.testing.assert_close(
        value.double(), oracle.info_nce(out0, out1, bank, temperature=0.5).mean(), rtol=1e-5, atol=1e-6
    )
    value.backward()
    (gradient,) = rows_oracle.gradients(lambda q: oracle.info_nce(q, out1, bank, temperature=0.5).mean(), [out0])
    torch.testing.assert_close(out0.grad.double(), gradient, rtol=1e-4, atol=1e-6)


def test_bank_is_read_before_it_is_written() -> None:
    """The batch's own keys are not among its negatives, and the backward uses the bank as it was read."""
    loss = NTXentLoss(memory_bank_size=(6, 4))
    out0, out1 = views()
    bank = bank_of(loss)
    value = loss(out0, out1)
    torch.testing.assert_close(bank_of(loss), F.normalize(out1, dim=1))
    (gradient,) = torch.autograd.grad(value, out0)
    (expected,) = rows_oracle.gradients(lambda q: oracle.info_nce(q, out1, bank, temperature=0.5).mean(), [out0])
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-6)


def test_bank_is_written_only_while_training() -> None:
    loss = NTXentLoss(memory_bank_size=(16, 4))
    bank = bank_of(loss)
    out0, out1 = views()
    loss(out0.detach(), out1)
    with torch.no_grad():
        loss(out0.detach(), out1)
    assert torch.equal(bank_of(loss), bank)
    loss(out0, out1)
    assert not torch.equal(bank_of(loss), bank)


def test_bank_drops_nothing_at_its_end() -> None:
    loss = NTXentLoss(memory_bank_size=(8, 4))
    seen = []
    for _ in range(5):
        out0, out1 = views(3)
        loss(out0, out1)
        seen += list(F.normalize(out1, dim=1))
        kept = {tuple(key) for key in bank_of(loss).mul(1e4).round().int().tolist()}
        newest = {tuple(key.mul(1e4).round().int().tolist()) for key in seen[-8:]}
        assert newest <= kept


def test_a_batch_larger_than_the_bank_leaves_its_newest_rows() -> None:
    loss = NTXentLoss(memory_bank_size=(4, 3))
    out0, out1 = views(11, 3)
    loss(out0, out1)
    kept = bank_of(loss)
    for key in F.normalize(out1, dim=1)[-4:]:
        assert (kept - key).abs().sum(1).min() < 1e-5


def test_bank_survives_state_dict() -> None:
    loss = NTXentLoss(memory_bank_size=(8, 4))
    loss(*views())
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    resumed = NTXentLoss(memory_bank_size=(8, 4))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        out0, out1 = views()
        assert torch.equal(loss(out0, out1), resumed(out0, out1))
        assert torch.equal(bank_of(loss), bank_of(resumed))


class Model(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 4)
        self.criterion = NTXentLoss(**options)  # type: ignore[arg-type]


def test_a_checkpoint_without_the_bank_loads_strictly_with_one_warning() -> None:
    """lightly writes such checkpoints."""
    model = Model(memory_bank_size=(8, 4))
    checkpoint = Model().state_dict()
    assert sorted(checkpoint) == ["encoder.bias", "encoder.weight"]
    bank = bank_of(model.criterion)
    with pytest.warns(UserWarning) as caught:
        model.load_state_dict(checkpoint, strict=True)
    assert len(caught) == 1 and "memory bank" in str(caught[0].message)
    assert sorted(checkpoint) == ["encoder.bias", "encoder.weight"]
    assert torch.equal(bank_of(model.criterion), bank)
    assert torch.equal(model.encoder.weight, checkpoint["encoder.weight"])


def test_other_missing_keys_are_still_errors() -> None:
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="encoder.bias"):
        Model(memory_bank_size=(8, 4)).load_state_dict({"encoder.weight": torch.zeros(4, 3)})


def test_an_integer_bank_warns_and_waits_for_the_first_batch() -> None:
    with pytest.warns(UserWarning, match="memory_bank_size=8") as caught:
        loss = NTXentLoss(memory_bank_size=8)
    assert caught[0].filename == __file__, "the warning must point at the caller"
    assert loss.memory_bank is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = loss(*views())
    value.backward()
    assert bank_of(loss).shape == (8, 4)
    assert any("memory_bank" in name for name in loss.state_dict())


def test_an_integer_bank_resumes() -> None:
    with pytest.warns(UserWarning):
        first, second = NTXentLoss(memory_bank_size=8), NTXentLoss(memory_bank_size=8)
    first(*views())
    second.load_state_dict(first.state_dict())
    assert torch.equal(bank_of(second), bank_of(first))
    batch = views()
    assert torch.equal(first(*batch), second(*batch))


def test_size_zero_means_no_bank_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert NTXentLoss(memory_bank_size=0).memory_bank is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_bank_serves_rows_of_another_dtype(dtype: torch.dtype) -> None:
    loss = NTXentLoss(memory_bank_size=(8, 4))
    out0, out1 = (x.detach().to(dtype).requires_grad_() for x in views())
    loss(out0, out1).backward()
    assert out0.grad.dtype == dtype and out0.grad.isfinite().all() and bank_of(loss).dtype == torch.float32


def test_bank_under_autocast() -> None:
    loss = NTXentLoss(memory_bank_size=(8, 4))
    out0, out1 = views()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(out0, out1)
    value.backward()
    assert value.dtype == torch.float32 and out0.grad.isfinite().all()
    torch.testing.assert_close(bank_of(loss).norm(dim=1), torch.ones(8), rtol=1e-2, atol=1e-2)


def test_keys_get_the_gradient_lightly_gives_them() -> None:
    """With a bank, out1 is still the positive: a trained key encoder receives its gradient."""
    loss = NTXentLoss(memory_bank_size=(8, 4))
    out0, out1 = views()
    out1.requires_grad_()
    bank = bank_of(loss)
    loss(out0, out1).backward()
    (expected,) = rows_oracle.gradients(lambda k: oracle.info_nce(out0, k, bank, temperature=0.5).mean(), [out1])
    torch.testing.assert_close(out1.grad.double(), expected, rtol=1e-4, atol=1e-6)
    assert not loss.memory_bank.keys.requires_grad


@pytest.mark.parametrize("symmetric", [False, True])
def test_info_nce_module_is_the_function(symmetric: bool) -> None:
    query, key = views()
    loss = InfoNCELoss(temperature=0.3, symmetric=symmetric)
    exact = oracle.info_nce(query, key, temperature=0.3, symmetric=symmetric).mean()
    torch.testing.assert_close(loss(query, key).double(), exact, rtol=1e-5, atol=1e-6)


def test_info_nce_module_takes_negatives() -> None:
    query, key = views()
    negatives = torch.randn(9, 4)
    exact = oracle.info_nce(query, key, negatives).mean()
    torch.testing.assert_close(InfoNCELoss()(query, key, negatives).double(), exact, rtol=1e-5, atol=1e-6)
    assert torch.equal(InfoNCELoss()(query, key, negatives=negatives), InfoNCELoss()(query, key, negatives))


def test_clip_module_as_open_clip_calls_it() -> None:
    image, text = (F.normalize(x.detach(), dim=1).requires_grad_() for x in views())
    scale = torch.tensor(2.5, requires_grad=True)
    loss = ClipLoss(local_loss=True, gather_with_grad=True, cache_labels=True, rank=0, world_size=1)
    value = loss(image, text, scale)
    value.backward()
    exact = rows_oracle.gradients(lambda *given: oracle.clip_loss(*given).mean(), [image, text, scale])
    torch.testing.assert_close(value.double(), oracle.clip_loss(image, text, scale).mean(), rtol=1e-5, atol=1e-6)
    for leaf, gradient in zip((image, text, scale), exact, strict=True):
        torch.testing.assert_close(leaf.grad.double(), gradient, rtol=1e-4, atol=1e-6)
    named = loss(image_features=image, text_features=text, logit_scale=scale, output_dict=True)
    assert list(named) == ["contrastive_loss"] and torch.equal(named["contrastive_loss"], value)


def test_clip_module_gives_the_bias_a_gradient_of_zero() -> None:
    image, text = views()
    bias = torch.tensor(-10.0, requires_grad=True)
    value = ClipLoss()(image, text, 2.5, bias)
    value.backward()
    assert torch.equal(value, ClipLoss()(image, text, 2.5)) and bias.grad.item() == 0


def make(kind: str) -> nn.Module:
    made = {"nt_xent": NTXentLoss, "info_nce": InfoNCELoss, "clip": ClipLoss}
    return NTXentLoss(memory_bank_size=(8, 4)) if kind == "bank" else made[kind]()


@pytest.mark.parametrize("kind", ["nt_xent", "bank", "info_nce", "clip"])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_copies_behave_alike_and_share_nothing(kind: str, duplicate) -> None:
    loss = make(kind)
    other = duplicate(loss)
    arguments = (*views(), *([2.0] if kind == "clip" else []))
    assert torch.equal(loss(*arguments), other(*arguments))
    for mine, theirs in zip(loss.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs) and mine.data_ptr() != theirs.data_ptr()
