# SPDX-License-Identifier: Apache-2.0
"""Images: float32 ``(N, C, H, W)`` in [0, 1]; one channel is taken for writing, three for photographs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from sslkernels.data import (
    BatchStyle,
    Dataset,
    ImageViews,
    LowVariancePerturb,
    MultiCrop,
    OneView,
    RandomizedQuantization,
    Views,
)
from sslkernels.data.raw import pixels
from sslkernels.data.views.lowvariance import MOST
from sslkernels.data.views.multicrop import SMALL
from sslkernels.drawing import draw_image
from sslkernels.methods import (
    BYOL,
    DINO,
    FASSL,
    IBOT,
    MOKD,
    MSN,
    PMSN,
    SCFS,
    SIE,
    UVC,
    BarlowTwins,
    CrIBo,
    DINOv2,
    GenView,
    Method,
    MoCoV2,
    MoCoV3,
    Mugs,
    Pretext,
    ProtoCLR,
    SimCLR,
    SimSiam,
    SliceCluster,
    SwAV,
    Transitive,
    VICReg,
)
from sslkernels.models import DirectPred, OrientedFilters, ResNet, ViT
from sslkernels.models.volume import VolumeNet
from sslkernels.recipes.modality import Encoder, Modality
from sslkernels.recipes.recipe import Recipe
from sslkernels.terms import ActionMatch, Agreement, Jigsaw, Labels, Places, Trajectory

# Patches along an image's height and width. Attention to four times as many costs too much for a first try.
MOST_PATCHES = 8


def resnet(dataset: Dataset, *, widths: tuple[int, ...] = (32, 64, 128), blocks: tuple[int, ...] = (1, 1, 1)) -> ResNet:
    # Convolutions of small images run a sixth faster on the CPU in this layout.
    return ResNet(dataset.inputs.shape[1], widths, blocks).to(memory_format=torch.channels_last)


def vit(dataset: Dataset, *, patch_size: int, width: int = 96, depth: int = 3, heads: int = 4) -> ViT:
    _, channels, *size = dataset.inputs.shape
    return ViT(tuple(size), patch_size, channels, width=width, depth=depth, heads=heads)


def fitting_patch(dataset: Dataset) -> dict[str, Any]:
    """The smallest patch of at least 2 pixels that cuts images into at most 8 rows and columns, or the largest if none
    does. It has 2 pixels for the digits' 8x8, and 4 for 32x32.
    """
    size = dataset.inputs.shape[2:]
    side = math.gcd(*size)
    sizes = [patch for patch in range(2, side + 1) if side % patch == 0 and max(size) <= MOST_PATCHES * patch]
    return {"patch_size": sizes[0] if sizes else side}


def views(dataset: Dataset, count: int, whole: bool, *, writing: bool = True) -> nn.Module:
    """One view of a method that hides a part of it is hardly changed; all others vary."""
    _, channels, *size = dataset.inputs.shape
    if count == 1 and not whole:
        return OneView(channels, tuple(size))
    return ImageViews(channels, tuple(size), count, whole=whole, writing=writing)


MODALITY = Modality(
    "images",
    data="digits",
    encoders={"features": Encoder(resnet), "tokens": Encoder(vit, fitting_patch)},
    views=views,
    raw=pixels,
    draw=draw_image,
)

PHOTOGRAPHED, TURNING = "places?size=24", "turns?size=24&frames=4"
# Colour images of this size take two minutes on two cores with a network of half the usual width.
HALF = {"widths": (16, 32, 64)}
# A class token learns from digits in a minute where no crop hides a part of them, and the network is as small as this.
FEW_TOKENS = {"width": 64, "depth": 2, "small_views": 0}


def turned(dataset: Dataset, count: int, whole: bool) -> nn.Module:
    """Views for methods to which the pose of a thing matters: its colours vary, and it stays as it lies."""
    import kornia.augmentation as K

    return Views(K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), count)


def centred(dataset: Dataset, count: int, whole: bool) -> nn.Module:
    """Slices that turn about their middle, and are mirrored, and lack a patch. Their middle, whose tissue is asked for,
    stays where it is.
    """
    import kornia.augmentation as K

    turned = K.RandomAffine(180.0, scale=(0.9, 1.1), p=1.0)
    hidden = K.RandomErasing(scale=(0.02, 0.15), p=0.5)
    return Views(nn.Sequential(turned, K.RandomHorizontalFlip(), hidden), count)


def still(dataset: Dataset, count: int, whole: bool) -> nn.Module:
    """Frames as they are, whose colours are compared."""
    return Views(nn.Identity(), count)


def quantised(dataset: Dataset, count: int, whole: bool, *, regions: int = 8) -> nn.Module:
    """The usual views, then random quantization."""
    _, channels, *size = dataset.inputs.shape
    usual = ImageViews(channels, tuple(size), whole=whole).augment
    return Views(nn.Sequential(usual, RandomizedQuantization(regions)), count)


def synthesised(dataset: Dataset, count: int, whole: bool, *, share: float = 0.5, strength: float = 1.0) -> nn.Module:
    """The usual views of images whose faint features are drawn anew."""
    _, channels, *size = dataset.inputs.shape
    usual = ImageViews(channels, tuple(size), whole=whole).augment
    sample = dataset.inputs[:: -(-len(dataset.inputs) // MOST)]  # pictures may be too many for the memory
    return Views(nn.Sequential(LowVariancePerturb(sample, share, strength), usual), count)


def restyled(dataset: Dataset, count: int, whole: bool, *, areas: tuple[float, ...] = (0.01, 0.1)) -> nn.Module:
    """Things that turn and shift, where all of a view have the style of one of them."""
    import kornia.augmentation as K

    moved = K.RandomAffine(15.0, (0.1, 0.1), (0.8, 1.2), 10.0, p=1.0, padding_mode="border")
    return Views(nn.Sequential(moved, BatchStyle(areas)), count)  # type: ignore[arg-type]


def solid(dataset: Dataset) -> VolumeNet:
    """A network of the volumes that slices were cut from."""
    return VolumeNet(dataset.inputs.shape[1], (16, 32, 64))


def scattering(dataset: Dataset, *, widths: tuple[int, ...] = (32, 64, 128), orientations: int = 8) -> nn.Sequential:
    """A ResNet behind fixed oriented filters."""
    filters = OrientedFilters(dataset.inputs.shape[1], orientations)
    network = nn.Sequential(filters, ResNet(filters.channels, widths, (1,) * len(widths)))
    network.feature_dim = widths[-1]  # type: ignore[assignment]
    return network.to(memory_format=torch.channels_last)


def of_places(name: str, method: type[Method], **changed: Any) -> Recipe:
    """The method with two shots of one place as its two views (VG-SSL)."""
    return Recipe(
        name, method, MODALITY, paper="Xiao et al. 2023", arxiv="2308.00090", data=PHOTOGRAPHED,
        small={**method.small, **HALF, "epochs": 12}, paper_options=method.paper_options, **changed,
    )  # fmt: skip


def of_styles(name: str, method: type[Method], **changed: Any) -> Recipe:
    """The method on views each of which has one style for all of its images (BSS)."""
    return Recipe(
        name, method, MODALITY, paper="Scalbert et al. 2023", arxiv="2303.06088", data="painted", views=restyled,
        paper_options=method.paper_options, **{"small": method.small, **changed},
    )  # fmt: skip


def vit_of_crops(
    dataset: Dataset, *, patch_size: int, width: int = 96, depth: int = 3, heads: int = 4, registers: int = 0
) -> ViT:
    """A ViT with a class token, which takes large and small crops."""
    _, channels, *size = dataset.inputs.shape
    return ViT(
        tuple(size), patch_size, channels, width=width, depth=depth, heads=heads, class_token=True, registers=registers,
        any_size=True,
    )  # fmt: skip


def vit_of_hidden_patches(
    dataset: Dataset, *, patch_size: int, width: int = 96, depth: int = 3, heads: int = 4, registers: int = 0
) -> ViT:
    """The same with a mask token."""
    _, channels, *size = dataset.inputs.shape
    return ViT(
        tuple(size), patch_size, channels, width=width, depth=depth, heads=heads, class_token=True, registers=registers,
        mask_token=True, any_size=True,
    )  # fmt: skip


def crops(
    dataset: Dataset,
    count: int,
    whole: bool,
    *,
    small_views: int = 2,
    large_scale: tuple[float, ...] = (0.4, 1.0),
    small_scale: tuple[float, ...] = (0.05, 0.4),
    writing: bool = True,
) -> nn.Module:
    """Two large crops, which a teacher sees, and so many small ones, whose sides a ViT's patches divide.

    Without small ones the two are the usual views.
    """
    _, channels, *size = dataset.inputs.shape
    if not small_views:
        return views(dataset, 2, whole, writing=writing)
    small = small_crop(dataset)
    scales = large_scale, small_scale
    return MultiCrop(channels, tuple(size), 2, small_views, small, *scales, writing=writing)  # type: ignore[arg-type]


def cut_crops(dataset: Dataset, count: int, whole: bool, *, small_views: int = 2) -> nn.Module:
    """Two large crops and so many small ones, of the pixels as they are."""
    _, channels, *size = dataset.inputs.shape
    return MultiCrop(channels, tuple(size), 2, small_views, small_crop(dataset), cut=True)


def small_crop(dataset: Dataset) -> tuple[int, int]:
    """The size of a small crop, whose sides a ViT's patches divide."""
    patch = fitting_patch(dataset)["patch_size"]
    height, width = (patch * max(1, round(SMALL * side / patch)) for side in dataset.inputs.shape[2:])
    return height, width


def of_scenes(name: str, method: type[Method], **changed: Any) -> Recipe:
    """The method on scenes, each picture for itself. Which methods the paper took could not be looked up."""
    return Recipe(
        name, method, MODALITY, paper="Valois et al. 2024", arxiv="2403.01183", data=f"{PHOTOGRAPHED}&paired=no",
        small={**method.small, **HALF, "epochs": 12}, paper_options=method.paper_options, after_abstract=True,
        **changed,
    )  # fmt: skip


# The crops of DINOv2's configurations, and but for their number of iBOT's.
DINOV2_CROPS = {"small_views": 8, "large_scale": (0.32, 1.0), "small_scale": (0.05, 0.32)}


def of_crops(name: str, method: type[Method] = DINOv2, **changed: Any) -> Recipe:
    """The method on large and small crops of digits."""
    encoder = Encoder(vit_of_hidden_patches, fitting_patch)
    return Recipe.plain(name, method, MODALITY, encoder=encoder, **{"views": crops, **changed})


RECIPES = (
    Recipe(
        "direct_pred",
        BYOL,
        MODALITY,
        paper="Tian, Chen and Ganguli 2021",
        arxiv="2102.06810",
        data="digits",
        parts={"predictor": lambda options: DirectPred(options["projection_dim"], momentum=0.3, eps=0.01)},
        small={**BYOL.small, "epochs": 25},
        paper_options={"epochs": 300, "batch_size": 128, "lr": 1e-3, "projection_dim": 128, "hidden_dim": 512},
        seeds=(89,),
    ),
    Recipe(
        "fine_grained",
        SimSiam,
        MODALITY,
        paper="Wang et al. 2024",
        arxiv="2407.14676",
        data="emoji",
        views=synthesised,
        small={**SimSiam.small, **HALF, "batch_size": 64},
        paper_options=SimSiam.paper_options,
        seeds=(18,),
        after_abstract=True,
    ),
    Recipe(
        "action_simclr",
        SimCLR,
        MODALITY,
        paper="Aubret et al. 2024",
        arxiv="2407.06704",
        data=TURNING,
        term=ActionMatch,
        views=turned,
        small={**SimCLR.small, **HALF, "epochs": 12},
        paper_options=SimCLR.paper_options,
        seeds=(19,),
        after_abstract=True,
    ),
    Recipe(
        "pose_vicreg",
        VICReg,
        MODALITY,
        paper="Wang et al. 2024",
        arxiv="2403.14973",
        data=TURNING,
        term=Trajectory,
        views=turned,
        options={"weight": 0.01},
        small={**VICReg.small, **HALF, "epochs": 12},
        paper_options=VICReg.paper_options,
        seeds=(112,),
        after_abstract=True,
    ),
    Recipe.plain(
        "sie",
        SIE,
        MODALITY,
        data="turns?of=digits&size=14&frames=4&most=180",
        views=turned,
        small={**SIE.small, **HALF},
    ),
    Recipe.plain(
        "transitive",
        Transitive,
        MODALITY,
        data="turns?of=digits&size=14&frames=4",
        views=turned,
        small={**Transitive.small, **HALF},
    ),
    Recipe.plain(
        "slice_cluster",
        SliceCluster,
        MODALITY,
        data="brain",
        encoders={"volume": solid},
        views=centred,
        small={**SliceCluster.small, **HALF},
    ),
    Recipe.plain("uvc", UVC, MODALITY, data=TURNING, views=still, small={**UVC.small, **HALF}),
    Recipe.plain(
        "dino",
        DINO,
        MODALITY,
        views=crops,
        # Small crops of digits cost more than they teach: with two of them the teacher stayed sure of nothing.
        small={**DINO.small, "small_views": 0},
        paper_options={**DINO.paper_options, "small_views": 8},
    ),
    Recipe.plain(
        "swav",
        SwAV,
        MODALITY,
        views=crops,
        small={**SwAV.small, "small_views": 0},
        paper_options={
            **SwAV.paper_options,
            "small_views": 6,
            "large_scale": (0.14, 1.0),
            "small_scale": (0.05, 0.14),
        },
    ),
    of_crops(
        "ibot",
        IBOT,
        small={**IBOT.small, **FEW_TOKENS},
        paper_options={**IBOT.paper_options, **DINOV2_CROPS, "small_views": 10},
    ),
    of_crops(
        "dinov2",
        small={**DINOv2.small, **FEW_TOKENS},
        paper_options={**DINOv2.paper_options, **DINOV2_CROPS},
    ),
    # ViT-7B. Epochs stand for a million steps of a training whose rate and momentum stay as they are; here they end.
    of_crops(
        "dinov3",
        paper="Siméoni et al. 2025",
        arxiv="2508.10104",
        options={"last": "linear", "gram": 2.0},
        small={**DINOv2.small, **FEW_TOKENS, "gram_every": 100},
        paper_options={
            **DINOV2_CROPS,
            "epochs": 1000,
            "batch_size": 4096,
            "lr": 4e-4,
            "prototypes": 262144,
            "hidden_dim": 8192,
            "projection_dim": 512,
            "patch_head": (98304, 4096, 384),
            "momentum": 0.994,
            "final_momentum": 0.994,
            "warmup": 0.1,
            "freeze": 0.005,
            "registers": 4,
            "weight_decay": 0.04,
            "clip_gradients": 30.0,
        },
    ),
    # We chose what is cut, and out of how large an image.
    of_crops(
        "dinov2_crop_only",
        paper="Moutakanni et al. 2024",
        arxiv="2406.09294",
        views=cut_crops,
        small={**DINOv2.small, **FEW_TOKENS, "small_views": 2},
        paper_options={**DINOv2.paper_options, "small_views": 8},
        seeds=(8,),
        after_abstract=True,
    ),
    # Views of one place in the body come as partners of your own data.
    of_crops(
        "alice",
        IBOT,
        paper="Jiang et al. 2023",
        arxiv="2302.05615",
        term=Agreement,
        small={**IBOT.small, **FEW_TOKENS},
        paper_options={**IBOT.paper_options, "small_views": 0},
        seeds=(31,),
        after_abstract=True,
    ),
    Recipe.plain(
        "msn",
        MSN,
        MODALITY,
        encoder=Encoder(vit_of_crops, fitting_patch),
        views=crops,
        small={**MSN.small, **FEW_TOKENS},
        paper_options={**MSN.paper_options, "small_views": 10, "large_scale": (0.3, 1.0), "small_scale": (0.05, 0.3)},
    ),
    Recipe.plain(
        "pmsn",
        PMSN,
        MODALITY,
        encoder=Encoder(vit_of_crops, fitting_patch),
        views=crops,
        small={**PMSN.small, **FEW_TOKENS},
        paper_options={**PMSN.paper_options, "small_views": 10, "large_scale": (0.3, 1.0), "small_scale": (0.05, 0.3)},
    ),
    Recipe.plain(
        "cribo",
        CrIBo,
        MODALITY,
        views=crops,
        small={**CrIBo.small, "small_views": 0},
        paper_options={**CrIBo.paper_options, "small_views": 0},
    ),
    Recipe.plain(
        "mugs",
        Mugs,
        MODALITY,
        views=crops,
        small={**Mugs.small, "small_views": 0},
        paper_options={**Mugs.paper_options, "small_views": 10},
    ),
    Recipe.plain(
        "scfs",
        SCFS,
        MODALITY,
        views=crops,
        # Where a small crop of digits was searched for, features fell below those of the untrained network.
        small={**SCFS.small, "small_views": 0},
        paper_options={**SCFS.paper_options, "small_views": 8},
    ),
    Recipe.plain(
        "mokd",
        MOKD,
        MODALITY,
        encoder=Encoder(vit_of_crops, fitting_patch),
        views=crops,
        # Small crops of digits cost more than they teach, here as with DINO.
        small={**MOKD.small, **FEW_TOKENS},
        paper_options={**MOKD.paper_options, "small_views": 8},
    ),
    Recipe(
        "geo_moco",
        MoCoV2,
        MODALITY,
        paper="Ayush et al. 2021",
        arxiv="2011.09980",
        data=PHOTOGRAPHED,
        term=Places,
        small={**MoCoV2.small, **HALF, "epochs": 15, "cells": 100},
        paper_options=MoCoV2.paper_options,
        seeds=(115,),
    ),
    Recipe(
        "rq_moco_v3",
        MoCoV3,
        MODALITY,
        paper="Wu et al. 2022",
        arxiv="2212.08663",
        data="digits",
        views=quantised,
        small=MoCoV3.small,
        paper_options=MoCoV3.paper_options,
        seeds=(53,),
    ),
    # Its judge cuts images into squares. Generated views come as partners of your own data.
    Recipe.plain("genview", GenView, MODALITY),
    Recipe.plain("proto_clr", ProtoCLR, MODALITY, data="emoji?size=16", small={**ProtoCLR.small, **HALF}),
    # The weight of its term and its temperature are ours: nobody here could look the paper's up.
    Recipe(
        "scatsimclr",
        SimCLR,
        MODALITY,
        paper="Kinakh et al. 2021",
        arxiv="2108.13939",
        data="digits",
        encoder=Encoder(scattering),
        term=Jigsaw,
        options={"grid": 2, "permutations": 23},
        small={**SimCLR.small, "epochs": 60},
        paper_options=SimCLR.paper_options,
        seeds=(105,),
    ),
    Recipe(
        "rotation",
        Pretext,
        MODALITY,
        paper="Hendrycks et al. 2019",
        arxiv="1906.12340",
        data="fashion?count=5000&pool=2",
        term=Labels,
        options={"tasks": ("rotation",), "weights": (0.5,)},
        small={**Pretext.small, **HALF, "epochs": 10},
        paper_options={"epochs": 200, "batch_size": 128, "lr": 1e-3},
        seeds=(64,),
    ),
    Recipe(
        "jigen",
        Pretext,
        MODALITY,
        paper="Bucci et al. 2020",
        arxiv="2007.12368",
        data="handwriting",
        term=Labels,
        options={
            "tasks": ("jigsaw",),
            "weights": (0.7,),
            "whole": 0.6,
            "permutations": 23,
            "grid": 2,
        },
        small={**Pretext.small, **HALF, "epochs": 10},
        paper_options={"epochs": 30, "batch_size": 128, "lr": 1e-3, "permutations": 30, "grid": 3},
        seeds=(41,),
    ),
    # On photographs of 36 pixels so small a network did no better than chance in 30 epochs.
    Recipe(
        "context",
        Pretext,
        MODALITY,
        paper="Mundhenk, Ho and Chen 2018",
        arxiv="1711.06379",
        data="mnist5k",
        options={"tasks": ("context",)},
        small={**Pretext.small, "epochs": 20},
        paper_options={"epochs": 100, "batch_size": 128, "lr": 1e-3},
        seeds=(125,),
    ),
    Recipe.plain(
        "fassl",
        FASSL,
        MODALITY,
        data="fashion?count=5000&pool=2&tail=0.6",
        views=crops,
        # Views of writing keep the brightness of a cloth, by which two of one are told from all others.
        options={"writing": False},
        small={**FASSL.small, **HALF, "small_views": 0},
    ),
    of_styles("bss_simclr", SimCLR, small={**SimCLR.small, "epochs": 40}, seeds=(78,)),
    of_styles("bss_swav", SwAV),
    of_styles(
        "bss_msn",
        MSN,
        encoder=Encoder(vit_of_crops, fitting_patch),
        small={**MSN.small, "width": 64, "depth": 2},
    ),
    of_places("vg_simclr", SimCLR, seeds=(76,)),
    of_places("vg_moco_v2", MoCoV2),
    of_places("vg_byol", BYOL),
    of_places("vg_simsiam", SimSiam),
    of_places("vg_barlow_twins", BarlowTwins),
    of_places("vg_vicreg", VICReg),
    of_scenes("csai_simclr", SimCLR, seeds=(72,)),
    of_scenes("csai_barlow_twins", BarlowTwins),
    of_scenes("csai_swav", SwAV),
)
