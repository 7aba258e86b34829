# SPDX-License-Identifier: Apache-2.0
"""The doors of modules that no loss or method is: states, models and views."""

from __future__ import annotations

import torch
from doors import Door
from torch import nn
from wrong_values import IMAGES, ROWS

import sslkernels as sk
from sslkernels import models
from sslkernels.data import OneView, TwoViews
from sslkernels.models import ResNet, ViT, resnet_small

MODULE_DOORS: dict[str, Door] = {
    "MemoryQueue": Door(sk.MemoryQueue, {"size": 4, "dim": 3}, {"size": "counted", "dim": "counted"}),
    "MemoryQueue.enqueue": Door(
        lambda keys, *, group=None: sk.MemoryQueue(4, 3).enqueue(keys, group=group), {"keys": ROWS}, {"keys": "rows"},
        says="MemoryQueue",
    ),
    "MemoryBank": Door(
        sk.MemoryBank, {"samples": 4, "dim": 3, "momentum": 0.5},
        {"samples": "counted", "dim": "counted", "momentum": "share"},
    ),
    "MemoryBank.update": Door(
        lambda index, rows, *, group=None: sk.MemoryBank(len(ROWS), 3).update(index, rows, group=group),
        {"index": torch.arange(len(ROWS)), "rows": ROWS}, {"rows": "rows"}, says="MemoryBank",
    ),
    "Center": Door(sk.Center, {"num": 4}, {"num": "counted"}),
    "Center.collect": Door(lambda teacher: sk.Center(4).collect(teacher), {"teacher": ROWS}, {"teacher": "rows"},
        says="Center"),
    "Center.bias": Door(
        lambda temperature: sk.Center(4).bias(temperature), {"temperature": 0.1}, says="Center",
    ),
    "Prototypes": Door(sk.Prototypes, {"dim": 3, "count": 4}, {"dim": "counted", "count": "counted", "kind": "choice"}),
    "update_momentum": Door(
        lambda model, model_ema, m: sk.update_momentum(model, model_ema, m),
        {"model": nn.Linear(2, 2), "model_ema": nn.Linear(2, 2), "m": 0.5},
        {"model": "module", "model_ema": "module", "m": "momentum"},
    ),
    "use_backend": Door(lambda name: sk.use_backend(name).__enter__(), {"name": "cpu"}, {"name": "backend name"}),
    "ProjectionHead": Door(
        models.ProjectionHead, {"in_dim": 3, "hidden_dim": 3, "out_dim": 3},
        {"in_dim": "counted", "hidden_dim": "counted", "out_dim": "counted", "layers": "counted", "norm_out": "flag"},
    ),
    "ResNet": Door(
        ResNet, {"in_channels": 1, "widths": (4, 8), "blocks": (1, 1)},
        {"in_channels": "counted", "widths": "sizes", "blocks": "sizes"},
    ),
    "resnet_small": Door(resnet_small, {"in_channels": 1}, {"in_channels": "counted"}),
    "Transformer": Door(models.Transformer, {"width": 8, "depth": 1, "heads": 2}, {"width": "counted",
        "depth": "counted",
        "heads": "counted"}),
    "ViT": Door(
        ViT, {"image_size": (8, 8), "patch_size": 2},
        {"image_size": "image size", "patch_size": "size", "in_channels": "counted", "width": "counted",
            "depth": "counted",
            "heads": "counted", "class_token": "flag", "registers": "size or zero", "mask_token": "flag",
            "any_size": "flag"},
    ),
    "DINOHead": Door(
        models.DINOHead, {"in_dim": 3, "out_dim": 4, "hidden_dim": 3, "bottleneck_dim": 2},
        {"in_dim": "counted", "out_dim": "counted", "bottleneck_dim": "counted", "layers": "counted", "last": "choice",
         "batch_norm": "flag"},
    ),
    "Conv1dNet": Door(
        models.Conv1dNet, {"in_channels": 2, "widths": (4, 8)},
        {"in_channels": "counted", "widths": "layers", "kernel": "size"},
    ),
    "SpectrogramNet": Door(models.SpectrogramNet, {"widths": (4, 8)}, {"widths": "layers"}),
    "ColumnTransformer": Door(
        models.ColumnTransformer, {"columns": 3, "width": 8, "depth": 1, "heads": 2},
        {"columns": "counted", "width": "counted", "depth": "counted", "heads": "counted"},
    ),
    "TokenTransformer": Door(
        models.TokenTransformer, {"vocabulary": 9, "length": 4, "width": 8, "depth": 1, "heads": 2},
        {"vocabulary": "counted", "length": "counted", "width": "counted", "depth": "counted", "heads": "counted"},
    ),
    "GIN": Door(models.GIN, {"in_features": 3, "width": 8}, {"in_features": "counted", "width": "counted",
        "depth": "size"}),
    "OrientedFilters": Door(
        models.OrientedFilters, {"in_channels": 1}, {"in_channels": "counted", "orientations": "counted"},
    ),
    "DirectPred": Door(models.DirectPred, {"dim": 3}, {"dim": "counted", "eps": "number"}),
    "TwoViews": Door(
        TwoViews, {"channels": 1, "image_size": (8, 8)},
        {"channels": "channels", "image_size": "image size", "whole": "flag", "writing": "flag"},
    ),
    "OneView": Door(OneView, {"channels": 1, "image_size": (8, 8)}, {"channels": "channels",
        "image_size": "image size"}),
    "patchify": Door(models.patchify, {"images": IMAGES, "patch": 2}, {"images": "whole images", "patch": "size"}),
    "unpatchify": Door(
        models.unpatchify, {"patches": torch.rand(2, 16, 4), "channels": 1, "grid": (4, 4)},
        {"patches": "patches", "channels": "size", "grid": "image size"},
    ),
    "sincos_positions": Door(
        models.sincos_positions, {"height": 2, "width": 2, "features": 8},
        {"height": "counted", "width": "counted", "features": "counted"},
    ),
}  # fmt: skip
