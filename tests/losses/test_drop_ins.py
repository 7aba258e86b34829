# SPDX-License-Identifier: Apache-2.0
"""Each module has the arguments, defaults, attributes and methods for subclasses of the class that it replaces.

The tables were written from lightly 1.6.0 (1.5 for what 1.6 removed), open_clip 3.3 and stable-pretraining 0.1;
solo-learn has functions.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels import losses
from sslkernels.losses import ClipLoss, NTXentLoss, SIGReg

# Arguments of the constructor and of forward, in order, and attributes that are no argument of the constructor.
ORIGINALS: dict[str, tuple[dict[str, Any], list[str], dict[str, type]]] = {
    "NTXentLoss": (
        {"temperature": 0.5, "memory_bank_size": 0, "gather_distributed": False},
        ["out0", "out1"],
        {"eps": float, "cross_entropy": nn.CrossEntropyLoss},
    ),
    "BarlowTwinsLoss": ({"lambda_param": 5e-3, "gather_distributed": False}, ["z_a", "z_b"], {}),
    "VICRegLoss": (
        {"lambda_param": 25.0, "mu_param": 25.0, "nu_param": 1.0, "gather_distributed": False, "eps": 1e-4},
        ["z_a", "z_b"],
        {},
    ),
    "TiCoLoss": (
        {"beta": 0.9, "rho": 8.0, "gather_distributed": False},
        ["z_a", "z_b", "update_covariance_matrix"],
        {"C": type(None)},
    ),
    "FroSSLLoss": ({"invariance_weight": 1.0}, ["z_views"], {}),
    "NegativeCosineSimilarity": ({"dim": 1, "eps": 1e-8}, ["x0", "x1"], {}),
    "SymNegCosineSimilarityLoss": ({}, ["out0", "out1"], {}),
    "DCLLoss": (
        {"temperature": 0.1, "weight_fn": None, "gather_distributed": False},
        ["out0", "out1"],
        {},
    ),
    "DCLWLoss": ({"temperature": 0.1, "sigma": 0.5, "gather_distributed": False}, ["out0", "out1"], {}),
    "DirectCLRLoss": (
        {"loss_dim": 64, "temperature": 0.5, "memory_bank_size": 0, "gather_distributed": False},
        ["out0", "out1"],
        {"eps": float, "cross_entropy": nn.CrossEntropyLoss},
    ),
    "CO2Regularizer": ({"alpha": 1, "t_consistency": 0.05, "memory_bank_size": 0}, ["out0", "out1"], {}),
    "MACLLoss": ({"temperature": 0.1, "alpha": 0.5, "A_0": 0.0}, ["z0", "z1"], {"eps": float}),
    "HypersphereLoss": ({"t": 1.0, "lam": 1.0, "alpha": 2.0}, ["z_a", "z_b"], {}),
    "KoLeoLoss": ({"p": 2, "eps": 1e-8}, ["x"], {}),
    "DINOLoss": (
        {
            "output_dim": 65536,
            "warmup_teacher_temp": 0.04,
            "teacher_temp": 0.04,
            "warmup_teacher_temp_epochs": 30,
            "student_temp": 0.1,
            "center_momentum": 0.9,
            "center_mode": "mean",
        },
        ["teacher_out", "student_out", "teacher_temp", "epoch"],
        {},
    ),
    "IBOTPatchLoss": (
        {
            "output_dim": 65536,
            "teacher_temp": 0.04,
            "student_temp": 0.1,
            "center_mode": "mean",
            "center_momentum": 0.9,
        },
        ["teacher_out", "student_out", "mask", "teacher_temp"],
        {},
    ),
    "MSNLoss": (
        {"temperature": 0.1, "sinkhorn_iterations": 3, "regularization_weight": 1.0, "gather_distributed": False},
        ["anchors", "targets", "prototypes", "target_sharpen_temperature"],
        {},
    ),
    "PMSNLoss": (
        {
            "temperature": 0.1,
            "sinkhorn_iterations": 3,
            "regularization_weight": 1,
            "power_law_exponent": 0.25,
            "gather_distributed": False,
        },
        ["anchors", "targets", "prototypes", "target_sharpen_temperature"],
        {},
    ),
    "PMSNCustomLoss": (
        {
            "target_distribution": inspect.Parameter.empty,
            "temperature": 0.1,
            "sinkhorn_iterations": 3,
            "regularization_weight": 1,
            "gather_distributed": False,
        },
        ["anchors", "targets", "prototypes", "target_sharpen_temperature"],
        {},
    ),
    "SwaVLoss": (
        {
            "temperature": 0.1,
            "sinkhorn_iterations": 3,
            "sinkhorn_epsilon": 0.05,
            "sinkhorn_gather_distributed": False,
        },
        ["high_resolution_outputs", "low_resolution_outputs", "queue_outputs"],
        {},
    ),
    "CAPILoss": (
        {
            "teacher_temperature": 0.06,
            "student_temperature": 0.12,
            "sinkhorn_iterations": 3,
            "gather_distributed": False,
        },
        ["teacher_logits", "student_logits", "teacher_index"],
        {},
    ),
    "SIGReg": (
        {"knots": 17, "t_max": 3.0, "num_vectors": 1024, "gather_distributed": False},
        ["proj"],
        {"t": Tensor, "phi": Tensor, "weights": Tensor},
    ),
    "LeJEPALoss": (
        {
            "lambda_param": 0.05,
            "gather_distributed": False,
            "sigreg_knots": 17,
            "sigreg_t_max": 3.0,
            "sigreg_num_vectors": 1024,
        },
        ["local_proj", "global_proj"],
        {"sigreg": SIGReg},
    ),
    "VCRegLoss": ({"std_coeff": 25.0, "cov_coeff": 1.0, "epsilon": 1e-4}, ["z_i"], {}),
    "ClipLoss": (
        {
            "local_loss": False,
            "gather_with_grad": False,
            "cache_labels": False,
            "rank": 0,
            "world_size": 1,
            "use_horovod": False,
        },
        ["image_features", "text_features", "logit_scale", "logit_bias", "output_dict"],
        {"prev_num_logits": int, "labels": dict},
    ),
    "CoCaLoss": (
        {
            "caption_loss_weight": inspect.Parameter.empty,
            "clip_loss_weight": inspect.Parameter.empty,
            "pad_id": 0,
            "local_loss": False,
            "gather_with_grad": False,
            "cache_labels": False,
            "rank": 0,
            "world_size": 1,
            "use_horovod": False,
        },
        ["image_features", "text_features", "logits", "labels", "logit_scale", "output_dict"],
        {"prev_num_logits": int, "labels": dict, "caption_loss": nn.CrossEntropyLoss},
    ),
    "DistillClipLoss": (
        {
            "local_loss": False,
            "gather_with_grad": False,
            "cache_labels": False,
            "rank": 0,
            "world_size": 1,
            "use_horovod": False,
        },
        [
            "image_features",
            "text_features",
            "logit_scale",
            "dist_image_features",
            "dist_text_features",
            "dist_logit_scale",
            "output_dict",
        ],
        {"prev_num_logits": int, "labels": dict},
    ),
    "SigLipLoss": (
        {"cache_labels": False, "rank": 0, "world_size": 1, "dist_impl": None},
        ["image_features", "text_features", "logit_scale", "logit_bias", "output_dict"],
        {"prev_num_logits": int, "labels": dict},
    ),
}
OURS = {"InfoNCELoss", "VIbCRegLoss"}  # the second replaces a function of solo-learn
# Arguments that the original does not keep as an attribute, or hands on to a part.
HANDED_ON = {
    "memory_bank_size", "pad_id", "dist_impl", "sigreg_knots", "sigreg_t_max", "sigreg_num_vectors", "output_dim",
    "warmup_teacher_temp", "center_mode", "center_momentum",
}  # fmt: skip
REQUIRED = {"target_distribution": torch.softmax}
GATHERED = [
    name for name in losses.__all__ if "gather_distributed" in inspect.signature(getattr(losses, name)).parameters
]


def test_every_module_has_its_original() -> None:
    assert set(losses.__all__) == set(ORIGINALS) | OURS


@pytest.mark.parametrize("name", ORIGINALS)
def test_arguments_and_attributes_are_the_originals(name: str) -> None:
    arguments, forward, attributes = ORIGINALS[name]
    kind = getattr(losses, name)
    ours = {p.name: p.default for p in inspect.signature(kind).parameters.values()}
    assert list(ours)[: len(arguments)] == list(arguments)
    assert {key: ours[key] for key in arguments} == arguments
    assert list(inspect.signature(kind.forward).parameters)[1 : 1 + len(forward)] == forward
    required = {
        argument: REQUIRED.get(argument, 0.5)
        for argument, default in arguments.items()
        if default is inspect.Parameter.empty
    }
    loss = kind(**required)
    for argument, default in (arguments | required).items():
        if argument not in HANDED_ON and not (name == "LeJEPALoss" and argument == "gather_distributed"):
            assert getattr(loss, argument) == default
    for attribute, expected in attributes.items():
        assert isinstance(getattr(loss, attribute), expected)


@pytest.mark.parametrize("name", GATHERED)
def test_without_torch_distributed_gathering_is_refused_as_in_lightly(name: str, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(torch.distributed, "is_available", lambda: bool(asked.append(name)))
    if name in ("VCRegLoss", "VIbCRegLoss"):  # they gather by default, if there are other ranks
        z = torch.randn(4, 3)
        assert getattr(losses, name)()(*[z, z][: 1 if name == "VCRegLoss" else 2]).isfinite()
        return
    with pytest.raises(ValueError, match=f"(SIGReg|{name}): gather_distributed is True and this torch has no"):
        partial(getattr(losses, name), *[torch.softmax] * (name == "PMSNCustomLoss"))(gather_distributed=True)
    assert asked == [name]


@pytest.mark.parametrize("size", [0, (0,), (0, 4), [0, 4]], ids=str)
def test_a_bank_of_size_zero_is_none(size: Any) -> None:
    assert NTXentLoss(memory_bank_size=size).memory_bank is None


@pytest.mark.parametrize("size", [-1, (4,) * 3, (4, 0), (-1, 4), "84", None, 1.5, (True, 4)], ids=str)
def test_a_bank_of_no_size_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match="NTXentLoss: memory_bank_size is .*; pass 0 for none, or"):
        NTXentLoss(memory_bank_size=size)


def features(n: int = 5, d: int = 4) -> tuple[Tensor, Tensor]:
    return tuple(F.normalize(x, dim=1).requires_grad_() for x in torch.randn(2, n, d))  # type: ignore[return-value]


class CaptionLoss(ClipLoss):
    """A subclass like open_clip's CoCa: it adds a loss of its own."""

    def __init__(self, weight: float, **options: Any) -> None:
        super().__init__(**options)
        self.weight = weight

    def forward(self, image: Tensor, text: Tensor, caption: Tensor, logit_scale: Tensor) -> Tensor:  # type: ignore[override]
        return self.weight * super().forward(image, text, logit_scale) + caption.mean()


class DistillLoss(ClipLoss):
    """A subclass like open_clip's: it takes logits of a student and of its teacher."""

    def forward(self, image: Tensor, text: Tensor, scale: Tensor, image_t: Tensor, text_t: Tensor) -> Tensor:  # type: ignore[override]
        ours, theirs = self.get_logits(image, text, scale), self.get_logits(image_t, text_t, scale)
        labels = self.get_ground_truth(image.device, ours[0].shape[0])
        contrast = sum(F.cross_entropy(logits, labels) for logits in ours) / 2
        distilled = sum(-(t.softmax(1) * s.log_softmax(1)).sum(1).mean() for s, t in zip(ours, theirs, strict=True)) / 2
        return contrast + distilled


class MarginLoss(ClipLoss):
    def get_logits(self, image_features, text_features, logit_scale, logit_bias=None):
        per_image, per_text = super().get_logits(image_features, text_features, logit_scale, logit_bias)
        margin = 0.3 * torch.eye(len(per_image))
        return per_image - margin, per_text - margin


class TurnedLoss(ClipLoss):
    """A subclass in which every image belongs to the next text."""

    def get_ground_truth(self, device, num_logits):
        return super().get_ground_truth(device, num_logits).roll(-1)


def dense(image: Tensor, text: Tensor, scale: float, margin: float = 0.0, turn: int = 0) -> Tensor:
    logits = scale * image.double() @ text.double().T - margin * torch.eye(len(image), dtype=torch.float64)
    labels = torch.arange(len(image)).roll(-turn)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def close(found: Tensor, expected: Tensor, *leaves: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    for ours, exact in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-6)


def test_clip_logits_and_labels_are_open_clips() -> None:
    image, text = features()
    loss = ClipLoss(cache_labels=True, rank=2, world_size=3, local_loss=True)
    assert torch.equal(loss.get_ground_truth(torch.device("cpu"), 5), torch.arange(10, 15))
    assert loss.prev_num_logits == 5 and list(loss.labels) == [torch.device("cpu")]
    assert loss.get_ground_truth(torch.device("cpu"), 5) is loss.labels[torch.device("cpu")]
    assert torch.equal(ClipLoss(rank=2, world_size=3).get_ground_truth("cpu", 5), torch.arange(5))
    assert ClipLoss().labels == {} and ClipLoss().prev_num_logits == 0
    per_image, per_text = ClipLoss().get_logits(image, text, 2.0, logit_bias=-3.0)
    torch.testing.assert_close(per_image, 2.0 * image @ text.T - 3.0)
    torch.testing.assert_close(per_text, 2.0 * text @ image.T - 3.0)


def test_subclasses_of_clip_are_served_as_in_open_clip() -> None:
    image, text = features()
    caption = torch.randn(3)
    found = CaptionLoss(0.5, use_horovod=False)(image, text, caption, torch.tensor(3.0))
    close(found, 0.5 * dense(image, text, 3.0) + caption.mean(), image, text)
    image_t, text_t = (x.detach() for x in features())
    found = DistillLoss()(image, text, 3.0, image_t, text_t)
    student, teacher = (3.0 * a.double() @ b.double().T for a, b in ((image, text), (image_t, text_t)))
    distilled = sum(
        -(t.softmax(1) * s.log_softmax(1)).sum(1).mean() for s, t in ((student, teacher), (student.T, teacher.T))
    )
    close(found, dense(image, text, 3.0) + distilled / 2, image, text)
    close(MarginLoss()(image, text, 3.0), dense(image, text, 3.0, margin=0.3), image, text)
    close(TurnedLoss()(image, text, 3.0), dense_turned(image, text, 3.0), image, text)
    named = MarginLoss()(image, text, 3.0, output_dict=True)
    assert list(named) == ["contrastive_loss"]


def dense_turned(image: Tensor, text: Tensor, scale: float) -> Tensor:
    return dense(image, text, scale, turn=1)


def test_a_method_put_on_the_instance_counts_too() -> None:
    image, text = features()
    loss = ClipLoss()
    loss.get_logits = lambda *given, **named: MarginLoss().get_logits(*given, **named)  # type: ignore[method-assign]
    close(loss(image, text, 3.0), dense(image, text, 3.0, margin=0.3), image, text)


def test_logits_are_made_only_for_who_overrides_them(monkeypatch) -> None:
    image, text = features()
    loss = CaptionLoss(1.0)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", None)
    assert torch.equal(loss(image, text, torch.zeros(1), 3.0), ClipLoss()(image, text, 3.0))


def test_horovod_is_refused() -> None:
    with pytest.raises(ValueError, match="ClipLoss: use_horovod is True and only torch.distributed is served; pass"):
        ClipLoss(use_horovod=True)
