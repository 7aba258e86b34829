# SPDX-License-Identifier: Apache-2.0
"""The shapes of a network's parameters, in their order. The network itself is not built."""

from __future__ import annotations

from math import prod

Shapes = tuple[tuple[int, ...], ...]


def resnet50(classes: int = 1000) -> Shapes:
    """ResNet-50 (He et al. 2016) as torchvision has it, where a stage's projection follows its first block."""

    def convolution(out: int, channels: int, size: int) -> Shapes:  # it has no bias, but a batch norm
        return ((out, channels, size, size), (out,), (out,))

    shapes, channels = convolution(64, 3, 7), 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += convolution(width, channels, 1) + convolution(width, width, 3) + convolution(4 * width, width, 1)
            shapes += convolution(4 * width, channels, 1) if block == 0 else ()
            channels = 4 * width
    return (*shapes, (classes, channels), (classes,))


def vit(width: int, depth: int, patches: int, patch: int = 16, hidden: int = 0, classes: int = 1000) -> Shapes:
    """A vision transformer (Dosovitskiy et al. 2021) as timm has it.

    With ``hidden`` it is DINOv2's, which has a SwiGLU of that width and layer scales.
    """

    def linear(out: int, features: int) -> Shapes:
        return ((out, features), (out,))

    norm, scale = ((width,), (width,)), ((width,),) if hidden else ()
    feed = (
        linear(2 * hidden, width) + linear(width, hidden)
        if hidden
        else linear(4 * width, width) + linear(width, 4 * width)
    )
    block = norm + linear(3 * width, width) + linear(width, width) + scale + norm + feed + scale
    first = ((1, 1, width), (1, patches + 1, width), (width, 3, patch, patch), (width,))
    return first + depth * block + norm + (linear(classes, width) if classes else ())


ARCHITECTURES = {
    "ResNet-50": resnet50(),
    "ViT-B": vit(768, 12, 14 * 14),
    "ViT-L": vit(1024, 24, 14 * 14),
    "ViT-g": vit(1536, 40, 37 * 37, patch=14, hidden=4096, classes=0),
}


def size(shapes: Shapes) -> tuple[int, int]:
    """How many tensors there are, and how many parameters in all.

    >>> size(ARCHITECTURES["ResNet-50"]), size(ARCHITECTURES["ViT-B"])
    ((161, 25557032), (152, 86567656))
    """
    return len(shapes), sum(map(prod, shapes))


# The name of sizes that no network here has.
EQUAL_TENSORS = "equal tensors"
_BY_SIZE = {size(shapes): (name, shapes) for name, shapes in ARCHITECTURES.items()}


def network(tensors: int, parameters: int) -> str:
    """The name of the network of that size, or `EQUAL_TENSORS` where none has it.

    >>> network(161, 25557032)
    'ResNet-50'
    """
    return _BY_SIZE.get((tensors, parameters), (EQUAL_TENSORS, ()))[0]


def architecture(tensors: int, parameters: int) -> Shapes:
    """The shapes of the network of that size, or equal tensors where none has it.

    >>> architecture(2, 8)
    ((4,), (4,))
    """
    if (tensors, parameters) in _BY_SIZE:
        return _BY_SIZE[tensors, parameters][1]
    share, over = divmod(parameters, tensors)
    return tuple((share + (place < over),) for place in range(tensors))
