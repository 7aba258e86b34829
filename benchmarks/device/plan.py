# SPDX-License-Identifier: Apache-2.0
"""List what is checked and timed, in which order, and the seconds of each step. Nothing here needs torch.

A workload is an op and a shape of its `Case`.
"""

from __future__ import annotations

from typing import NamedTuple

# Seconds of the whole, and of those the ones that are kept for the table at the end.
SECONDS, KEPT = 480, 8
F32, BF16, F16 = "float32", "bfloat16", "float16"
# Seconds that each step may take at most, in the order in which they run. Together they are more than the whole, since
# most end sooner, and nothing works without the first two; what comes last gives way.
BOXES = {
    "env": 20, "build": 120, "peaks": 20, "smoke": 60, "time": 125, "tests": 115, "compile": 42, "sanitizer": 25,
    "ncu": 25,
}  # fmt: skip
# Seconds that the processes of a step have to end by themselves once they are told to.
GRACE = 1.0


class Item(NamedTuple):
    """A workload in one dtype, and by which providers it is timed. ``ours`` is the backend that the library chooses."""

    op: str
    shape: tuple[int, ...]
    dtype: str = BF16
    providers: tuple[str, ...] = ("ours", "eager")
    precision: str = "highest"
    seconds: float = 0.4

    @property
    def key(self) -> tuple[str, str, str]:
        """The op in one dtype and precision. Where its smoke fails, it is not timed."""
        return self.op, self.dtype, self.precision

    def __str__(self) -> str:
        rounded = "" if self.precision == "highest" else f" {self.precision}"
        return f"{self.op}-{'x'.join(map(str, self.shape))} {self.dtype}{rounded}"


def _in(dtypes: tuple[str, ...], op: str, *shape: int) -> tuple[Item, ...]:
    return tuple(Item(op, shape, dtype) for dtype in dtypes)


RESNET, VIT_L, VIT_G = (161, 25557032), (296, 304326632), (485, 1134772480)

# The smoke gate. Exact values of the largest shapes would take longer than the rest.
SMOKE = (
    *_in((BF16, F16, F32), "nt_xent", 2048, 128),
    *_in((BF16, F16, F32), "nt_xent", 2048, 256),
    *_in((BF16,), "clip_loss", 8192, 512),
    *_in((BF16, F32), "clip_loss", 8192, 768),
    *_in((BF16, F32), "info_nce", 256, 65536, 128),
    *_in((BF16, F32), "in_batch_info_nce", 4096, 128),
    *_in((BF16, F32), "logsumexp_similarity", 1000, 4099, 200),
    *_in((BF16, F32), "dcl", 2048, 128),
    *_in((BF16, F32), "sup_con", 4096, 128),
    *_in((BF16, F32), "uniformity", 4096, 512),
    *_in((BF16, F32), "linear_cross_entropy", 256, 65536, 128),
    *_in((BF16, F32), "attend_similarity", 512, 8192, 256),
    *_in((BF16, F32), "prototype_cross_entropy", 128, 640, 65536, 256),
    *_in((BF16, F32), "sinkhorn_bias", 3727, 65536, 256),
    *_in((BF16, F32), "siglip_loss", 4096, 768),
    *_in((BF16, F32), "kmeans", 20000, 4096, 384),
    *_in((BF16, F32), "koleo", 4096, 1024),
    *_in((BF16, F32), "topk_similarity", 4096, 16384, 256, 20),
    *_in((BF16, F32), "gather_similarity", 2048, 2048, 100, 256),
    Item("rank_me", (4096, 512), F32),
    *_in((BF16, F32), "barlow_twins", 256, 8192),
    Item("barlow_twins", (256, 8192), F32, precision="high"),
    *_in((BF16,), "barlow_twins", 2048, 8192),
    *_in((BF16,), "barlow_twins", 4096, 2048),
    *_in((BF16, F32), "vicreg", 256, 8192),
    *_in((BF16, F32), "byol_loss", 4096, 256),
    *_in((BF16, F32), "gram_loss", 16, 196, 1024),
    *_in((BF16, F32), "sigreg", 2048, 512),
    *_in((BF16, F32), "gather_tokens", 256, 196, 49, 1024),
    *_in((BF16, F32), "restore_tokens", 256, 196, 49, 512),
    *_in((BF16, F32), "apply_masks", 24, 2048, 2, 640, 1408),
    *_in((BF16, F32), "masked_mse", 64, 196, 147, 768),
    *_in((F32, BF16), "ema_update", *RESNET),
)

# CLIP beside other libraries comes after the goals that need none: they try many tiles at their first call.
PEERS = tuple(Item("clip_loss", (65536, d), BF16, ("ours", "siglip", "memeff"), seconds=1.0) for d in (512, 768))

# Timing, by priority: a machine that is taken away loses the end.
TIME = (
    Item("clip_loss", (65536, 512), BF16, seconds=1.0),
    Item("clip_loss", (65536, 768), BF16, seconds=1.0),
    Item("nt_xent", (4096, 128), BF16),
    Item("nt_xent", (4096, 128), F32),
    Item("nt_xent", (65536, 256), BF16, ("ours",), seconds=1.0),
    Item("info_nce", (256, 65536, 128), BF16),
    *PEERS,
    Item("barlow_twins", (2048, 8192), BF16),
    Item("barlow_twins", (2048, 8192), F32),
    Item("barlow_twins", (2048, 8192), F32, precision="high"),
    Item("barlow_twins", (256, 8192), BF16),
    Item("barlow_twins", (256, 8192), F32),
    Item("barlow_twins", (256, 8192), F32, precision="high"),
    Item("gather_tokens", (256, 196, 49, 1024), BF16, ("ours", "triton", "eager")),
    Item("gather_tokens", (256, 196, 49, 1024), F32, ("ours", "triton", "eager")),
    Item("restore_tokens", (256, 196, 49, 512), BF16, ("ours", "triton", "eager")),
    Item("apply_masks", (24, 2048, 2, 640, 1408), BF16, ("ours", "triton", "eager")),
    Item("ema_update", VIT_L, F32, ("ours", "triton", "eager")),
    Item("ema_update", VIT_G, F32),
    Item("barlow_twins", (4096, 2048), BF16),
    Item("vicreg", (2048, 8192), BF16),
    Item("sigreg", (2048, 512), BF16),
    Item("byol_loss", (4096, 256), BF16),
)

# Beside torch.compile, whose code is written while the tests run.
COMPILE = tuple(
    Item(op, shape, dtype, ("ours", "eager", "compile"), seconds=0.3)
    for op, shape, dtype in (
        ("nt_xent", (4096, 128), BF16),
        ("clip_loss", (32768, 512), BF16),
        ("barlow_twins", (2048, 8192), BF16),
        ("gather_tokens", (256, 196, 49, 1024), BF16),
        ("restore_tokens", (256, 196, 49, 512), BF16),
        ("ema_update", RESNET, F32),
    )
)

# The kernels that ncu looks into are those that these launch.
PROFILED = (
    Item("clip_loss", (8192, 512), BF16),
    Item("nt_xent", (4096, 128), BF16),
    Item("gather_tokens", (256, 196, 49, 1024), BF16),
    Item("ema_update", RESNET, F32),
)


def chosen(items: tuple[Item, ...], texts: list[str]) -> list[Item]:
    """The items whose names have one of the texts, or all of them where there is none."""
    return [item for item in items if not texts or any(text in str(item) for text in texts)]


def names(texts: list[str]) -> tuple[list[str], list[str]]:
    """Split what follows ``--only`` into steps and parts of items' names. A text that names neither is an error."""
    every = (*SMOKE, *TIME, *COMPILE, *PROFILED)
    steps = [text for text in texts if text in BOXES]
    parts = [text for text in texts if text not in BOXES]
    for text in parts:
        if not chosen(every, [text]):
            raise ValueError(
                f"--only has {text!r}; pass steps ({', '.join(BOXES)}) or parts of names such as {every[0]}."
            )
    return steps, parts
