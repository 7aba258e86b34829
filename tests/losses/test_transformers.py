# SPDX-License-Identifier: Apache-2.0
"""`image_text_loss` gives the loss of transformers' own CLIP and SigLIP, and every gradient of the model."""

from __future__ import annotations

from typing import Any

import formulas
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.losses.transformers import image_text_loss


class Towers(nn.Module):
    """Return what a model of images and texts returns."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
        self.logit_scale = nn.Parameter(torch.tensor(1.2))
        self.logit_bias = nn.Parameter(torch.tensor(-2.0)) if bias else None

    def forward(self, pixels: Tensor, ids: Tensor) -> dict[str, Tensor]:
        image, text = F.normalize(self.image(pixels), dim=1), F.normalize(self.text(ids), dim=1)
        return {"image_embeds": image, "text_embeds": text}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_the_formula(bias: bool, wrapped: bool) -> None:
    model = Towers(bias).double()
    outer = nn.DataParallel(model) if wrapped else model
    outputs = outer(torch.randn(7, 6).double(), torch.randn(7, 5).double())
    rows, scale = (outputs["image_embeds"], outputs["text_embeds"]), model.logit_scale.exp()
    expected = formulas.siglip_loss(*rows, scale, model.logit_bias) if bias else formulas.clip_loss(*rows, scale)
    parameters = list(model.parameters())
    found = image_text_loss(outer, outputs)
    torch.testing.assert_close(found, expected.mean())
    slopes = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in (found, expected.mean()))
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("says", "model", "outputs"),
    [
        ("model is a dict", {}, {}),
        ("model is a Linear, which has no tensor logit_scale", nn.Linear(2, 2), {}),
        ("outputs is a tuple; pass what the model returned", Towers(False), ()),
        ("outputs has no text_embeds; call the model with both", Towers(False), {"image_embeds": torch.eye(4)}),
        ("outputs has no image_embeds", Towers(False), {"image_embeds": None, "text_embeds": torch.eye(4)}),
    ],
    ids=["no module", "no scale", "tuple", "no texts", "no images"],
)
def test_what_is_missing_is_named(says: str, model: Any, outputs: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"image_text_loss: {says}"):
        image_text_loss(model, outputs)


def tiny(kind: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """Build a model of random numbers, with dropout off, and a batch for it."""
    library = pytest.importorskip("transformers", reason="transformers is missing; pip install transformers brings it")
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    texts = {**size, "vocab_size": 30, "max_position_embeddings": 8}
    images = {**size, "image_size": 8, "patch_size": 4}
    if kind == "CLIP":
        texts |= {"eos_token_id": 29, "bos_token_id": 28, "pad_token_id": 1}
        config = library.CLIPConfig(text_config=texts, vision_config=images, projection_dim=12)
    else:
        config = library.SiglipConfig(text_config={**texts, "projection_size": 16}, vision_config=images)
    model = getattr(library, f"{kind}Model")(config).double().eval()
    ids = torch.randint(2, 28, (6, 8))
    ids[:, -1] = 29
    return model, {"input_ids": ids, "pixel_values": torch.randn(6, 3, 8, 8, dtype=torch.float64)}


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_it_is_the_models_own_loss(kind: str) -> None:
    model, batch = tiny(kind)
    with torch.no_grad():
        model.logit_scale.fill_(1.5)  # SigLIP's random model has none
        if kind == "Siglip":
            model.logit_bias.fill_(-2.0)
    outputs = model(**batch, return_loss=True)
    found, parameters = image_text_loss(model, outputs), list(model.parameters())
    torch.testing.assert_close(found, outputs.loss, rtol=1e-10, atol=1e-12)
    slopes = [
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in (outputs.loss, found)
    ]
    reached = 0
    for other, one in zip(*slopes, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            reached += bool(one.abs().max() > 0)
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)
    assert reached > 20
