# SPDX-License-Identifier: Apache-2.0
"""LitMethod works with the loaders that people have: labels, views, streams of no length, one image at a time."""

from __future__ import annotations

import math
import warnings
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

pytest.importorskip("lightning")

from lightning.pytorch import Trainer  # noqa: E402

from sslkernels.data import TwoViews  # noqa: E402
from sslkernels.methods import BYOL, MAE, SimCLR  # noqa: E402
from sslkernels.models import ViT  # noqa: E402
from sslkernels.training import LitMethod  # noqa: E402
from sslkernels.training.batches import images_of, views_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*")

X, Y = torch.rand(2, 6, 1, 8, 8)
LABELS, NAMES = torch.arange(6), list("abcdef")
Batch = namedtuple("Batch", "images labels")


def backbone() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def simclr() -> SimCLR:
    return SimCLR(backbone(), feature_dim=4, projection_dim=4)


def byol() -> BYOL:
    return BYOL(backbone(), feature_dim=4, hidden_dim=4, projection_dim=4)


def mae() -> MAE:
    return MAE(ViT((8, 8), 4, width=16, depth=1, heads=2))


class Rates:
    """Records the optimizer's rate and the teacher's momentum at every step."""

    def __init__(self, module: LitMethod) -> None:
        self.values, self.totals = [], []
        after = module.method.after_step

        def after_step(step: int, total_steps: float) -> None:
            self.values.append(module.trainer.optimizers[0].param_groups[0]["lr"])
            self.totals.append(total_steps)
            after(step, total_steps)

        module.method.after_step = after_step


def fit(module: LitMethod, loader: object, **options: object) -> Rates:
    rates = Rates(module)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", devices=1, enable_model_summary=False, **quiet, **options)
    trainer.fit(module, loader)
    return rates


class Stream(IterableDataset):
    def __init__(self, count: int, once: bool = False) -> None:
        self.count, self.once = count, once

    def __iter__(self):
        yield from (torch.rand(1, 8, 8) for _ in range(self.count))
        if self.once:
            self.count = 0


VIEWS = {
    "two views": ((X, Y), [X, Y]),
    "as a list": ([X, Y], [X, Y]),
    "with labels": ((X, Y, LABELS), [X, Y]),
    "with labels and places": ((X, Y, LABELS, LABELS), [X, Y]),
    "pair and labels": (((X, Y), LABELS), [X, Y]),
    "lightly's": ([[X, Y], LABELS, NAMES], [X, Y]),
    "one": (X, [X]),
    "one in a list": ([X], [X]),
    "one with labels": ((X, LABELS), [X]),
    "one with labels of many classes": ((X, torch.rand(6, 10)), [X]),
    "views of several sizes": (([X, Y, X[..., :4, :4]], LABELS), [X, Y, X[..., :4, :4]]),
    "named": (Batch((X, Y), LABELS), [X, Y]),
    "rows": ([X.flatten(1), Y.flatten(1), LABELS], [X.flatten(1), Y.flatten(1)]),
}
IMAGES = {
    "images": X,
    "in a list": [X],
    "with labels": (X, LABELS),
    "with several": [X, LABELS, NAMES, torch.rand(6, 10)],
    "with masks": (X, torch.zeros(6, 8, 8, dtype=torch.int64)),
    "named": Batch(X, LABELS),
    "bytes": ((X * 255).byte(), LABELS),
}
NO_BATCH = {"dict": {"image": X, "label": LABELS}, "text": NAMES, "none": None, "empty": [], "labels": LABELS,
            "labels first": (LABELS, X), "arrays": [X.numpy()], "nothing": (), "number": 3.0}  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
def test_views(name: str) -> None:
    batch, expected = VIEWS[name]
    found = views_of(batch)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str) -> None:
    batch = IMAGES[name]
    assert images_of(batch) is (batch if isinstance(batch, torch.Tensor) else batch[0])


@pytest.mark.parametrize("name", NO_BATCH)
def test_other_batches_are_one_sentence(name: str) -> None:
    for take in (images_of, views_of):
        with pytest.raises((TypeError, ValueError), match="^LitMethod: the batch is a ") as caught:
            take(NO_BATCH[name])
        assert str(caught.value).endswith("labels).") and "\n" not in str(caught.value)


def test_views_beside_what_makes_views_are_refused() -> None:
    for batch in ((X, Y), (X, Y, LABELS), ((X, Y), LABELS)):
        with pytest.raises(ValueError, match="^LitMethod: the batch has several views and views= makes them of one"):
            images_of(batch)


@pytest.mark.parametrize("labelled", (True, False))
def test_labelled_images_train_as_images_do(labelled: bool) -> None:
    losses = []
    for data in (TensorDataset(X, LABELS), TensorDataset(X)):
        torch.manual_seed(0)
        module = LitMethod(byol(), views=TwoViews(1, (8, 8)))
        fit(module, DataLoader(data, 3), max_epochs=1)
        losses.append(module.losses)
    assert losses[0] == losses[1] and len(losses[0]) == 2


def test_one_view_with_labels() -> None:
    module = LitMethod(mae())
    fit(module, DataLoader(TensorDataset(X, LABELS), 3), max_epochs=1)
    assert len(module.losses) == 2
    with pytest.raises(ValueError, match="SimCLR: 1 views came"):
        fit(LitMethod(simclr()), DataLoader(TensorDataset(X, LABELS), 3), max_epochs=1)


@pytest.mark.parametrize("options", ({"max_epochs": 3}, {"max_epochs": -1, "limit_train_batches": 9}), ids=str)
def test_a_training_without_a_known_end_warms_up_and_stays(options: dict[str, int]) -> None:
    module = LitMethod(byol(), views=TwoViews(1, (8, 8)), lr=1.0)
    if options["max_epochs"] == -1:  # such a training has no end of its own
        after = module.on_train_epoch_end

        def stop() -> None:
            after()
            module.trainer.should_stop = True

        module.on_train_epoch_end = stop
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rates = fit(module, DataLoader(Stream(14), 2), **options)
    said = [str(each.message) for each in caught if "LitMethod" in str(each.message)]
    assert len(said) == 1 and "pass max_steps= or limit_train_batches=" in said[0] and said[0].endswith(".")
    steps = 21 if options["max_epochs"] == 3 else 7
    assert rates.values == pytest.approx([(step + 1) / 500 for step in range(steps)])
    assert set(rates.totals) == {float("inf")} and len(module.losses) == steps
    assert module.method.teacher.step == steps - 1


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({"max_steps": 12}, 12),
        ({"max_epochs": 3, "limit_train_batches": 5}, 15),
        ({"max_epochs": 3, "max_steps": 4}, 4),
        ({"max_steps": 6, "accumulate_grad_batches": 3}, 6),
    ],
    ids=str,
)
def test_a_stream_whose_end_is_said(options: dict[str, int], total: int) -> None:
    module = LitMethod(byol(), views=TwoViews(1, (8, 8)), lr=1.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="LitMethod")
        rates = fit(module, DataLoader(Stream(14), 2), **options)
    assert rates.totals == [total] * total
    falling = [0.5 * (1 + math.cos(math.pi * step / (total - 1))) for step in range(total - 1)]
    assert rates.values == pytest.approx([1.0, *falling])


def test_a_stream_that_ends_for_good_is_one_sentence() -> None:
    module = LitMethod(simclr(), views=TwoViews(1, (8, 8)))
    with pytest.raises(
        ValueError, match="^LitMethod: epoch 2 had no batch; pass a loader that begins anew every epoch.$"
    ):
        fit(module, DataLoader(Stream(4, once=True), 2), max_epochs=3)


def test_no_steps_at_all() -> None:
    module = LitMethod(simclr(), views=TwoViews(1, (8, 8)))
    fit(module, DataLoader(TensorDataset(X), 3), max_steps=0)
    assert module.losses == []


def test_batches_of_one() -> None:
    module = LitMethod(mae())
    fit(module, DataLoader(TensorDataset(X, LABELS), 1), max_epochs=1, accumulate_grad_batches=4)
    assert len(module.losses) == 2 and len(module.feature_std) == 1
    with pytest.raises(ValueError, match="^LitMethod: a batch has one image, .*; pass drop_last=True to the loader"):
        fit(LitMethod(simclr(), views=TwoViews(1, (8, 8))), DataLoader(TensorDataset(X), 5), max_epochs=1)


def test_views_may_be_a_function_and_come_as_one() -> None:
    module = LitMethod(mae(), views=lambda images: images.flip(-1))
    fit(module, DataLoader(TensorDataset(X, LABELS), 3), max_epochs=1)
    assert len(module.losses) == 2


def test_nothing_to_train_is_one_sentence() -> None:
    method = simclr().requires_grad_(False)
    with pytest.raises(ValueError, match="^LitMethod: method has no parameter that requires a gradient; .*\\.$"):
        fit(LitMethod(method, views=TwoViews(1, (8, 8))), DataLoader(TensorDataset(X), 3), max_epochs=1)


NO_NUMBER = ("x", None, True, [1.0], torch.ones(2), -1, float("nan"), float("inf"))


def test_wrong_arguments_are_one_sentence() -> None:
    wrong = {
        "method": (None, "simclr", SimCLR, nn.Linear(2, 2), 3),
        "views": (3, "two", TwoViews, [TwoViews], True, X),
        "lr": NO_NUMBER,
        "weight_decay": NO_NUMBER,
    }
    for argument, values in wrong.items():
        for value in values:
            with pytest.raises((TypeError, ValueError)) as caught:
                LitMethod(**{"method": simclr(), argument: value})
            sentence = str(caught.value)
            assert sentence.startswith(f"LitMethod: {argument} is ") and sentence.endswith("."), sentence
