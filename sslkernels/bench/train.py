# SPDX-License-Identifier: Apache-2.0
"""`sslkernels bench train` runs the same training on the reference backend and on ours, and times a step on both.

There are three runs from the same seed, over the same batches, views and dropped tokens: `reference`, ours, and a
*control*, which is `reference` again from first weights that are each moved to the next number of their dtype. Training
multiplies every difference: Adam's first step is lr * sign(gradient), and a gradient that is zero but for rounding has
a random sign. So curves part even where nothing is wrong, and the control shows how far rounding alone carries them. We
agree if

- the first loss is that of reference to 1e-5, a hundred roundings of float32;
- the first gradient of every weight is, in its norm, that of reference to 1e-4. Adam divides by the gradient's size, so
  that an error that only scales it shows in no curve, and a mask token is little beside a network. Gradients below
  0.005 of all together are held to that, since one may be zero: of a bias before a BatchNorm nothing but rounding is
  left, which was 2e-7 of all together on both sides (rq_simclr, against float64);
- the curve stays within ten times the control's largest distance, or 1e-3, at every step.

Measured on the digits, all ten methods at their own batch size (seed 0) and at 32 (seeds 0 and 1; eight at seed 2):
first losses were off by at most 2e-7, first gradients by 1.3e-6 (at their own batch size by 5.5e-6 of a weight's). Over
50 steps the curve went at most 2.2 times as far as the control's: 3e-7 in MAE and I-JEPA, mostly 1e-3 to 2e-2. The 1e-3
is for short runs: one of two right curves may make its first jump of 1e-4 some steps before the other. Where rounding
alone goes far (SimSiam and Barlow Twins: 0.01 to 0.3 in batches of 32), the curve says little and the first step
decides.

Distances of losses are relative to the reference's loss of that step, or to the median of its curve where that is
larger: a cosine loss passes through zero.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.arguments import LARGEST_WHOLE, check_choice
from sslkernels.bench.records import CONTROL, Record
from sslkernels.data import Dataset, load
from sslkernels.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

    from sslkernels.methods import Method
    from sslkernels.training.run import Prepared

FIRST_LOSS, FIRST_GRADIENT, CURVE = 1e-5, 1e-4, 1e-3
LEAST_SHARE = 5e-3
TIMES_CONTROL = 10
CASES = 4


# The loss at the size that its paper gives it, on the same small backbone. MAE and I-JEPA have the width and the tokens
# of ViT-S, for which images are enlarged, on fewer layers.
PAPER: dict[str, dict[str, Any]] = {
    "simclr": {"batch_size": 4096, "projection_dim": 128},
    "sup_con": {"batch_size": 6144, "projection_dim": 128},
    "dcl": {"batch_size": 256, "projection_dim": 128},
    "groco": {"batch_size": 1024, "projection_dim": 2048},
    "clip": {"batch_size": 32768, "projection_dim": 512},
    "pirl": {"batch_size": 1024, "negatives": 32000},
    "moco_v2": {"batch_size": 256, "queue_size": 65536},
    "dense_cl": {"batch_size": 256, "queue_size": 65536, "dense_queue_size": 65536},
    "halp": {"batch_size": 64, "queue_size": 16384},
    "genview": {"batch_size": 4096, "hidden_dim": 4096, "projection_dim": 256},
    "moco_v3": {"batch_size": 4096, "hidden_dim": 4096, "projection_dim": 256},
    "moby": {"batch_size": 512, "queue_size": 4096, "hidden_dim": 4096, "projection_dim": 256},
    "sce": {"batch_size": 512, "queue_size": 65536},
    "ressl": {"batch_size": 256, "queue_size": 131072, "projection_dim": 512},
    "mls": {"batch_size": 512, "queue_size": 8192, "hidden_dim": 2048},
    "nnclr": {"batch_size": 4096, "queue_size": 98304, "hidden_dim": 4096, "projection_dim": 256},
    "dino": {"batch_size": 64, "prototypes": 65536, "hidden_dim": 2048, "projection_dim": 256, "small_views": 8},
    "ibot": {"batch_size": 64, "prototypes": 8192, "hidden_dim": 2048, "projection_dim": 256, "small_views": 10},
    "dinov2": {"batch_size": 32, "prototypes": 131072, "hidden_dim": 2048, "projection_dim": 384, "small_views": 8},
    "swav": {"batch_size": 64, "prototypes": 3000, "hidden_dim": 2048, "queue_size": 3840, "small_views": 6},
    "fassl": {"batch_size": 512, "prototypes": 1000, "hidden_dim": 2048},
    "msn": {"batch_size": 64, "prototypes": 1024, "hidden_dim": 2048, "projection_dim": 256, "small_views": 10},
    "capi": {"batch_size": 32, "patch_size": 16, "width": 384, "heads": 6, "prototypes": 16384},
    "byol": {"batch_size": 256, "hidden_dim": 4096, "projection_dim": 256},
    "tri_byol": {"batch_size": 256, "hidden_dim": 4096, "projection_dim": 256},
    "simsiam": {"batch_size": 256, "projection_dim": 2048},
    "vi_simsiam": {"batch_size": 256, "projection_dim": 2048},
    "barlow_twins": {"batch_size": 256, "projection_dim": 8192},
    "vicreg": {"batch_size": 256, "projection_dim": 8192},
    "mae": {"batch_size": 64, "patch_size": 16, "width": 384, "heads": 6, "decoder_width": 192},
    "i_jepa": {"batch_size": 32, "patch_size": 16, "width": 384, "heads": 6, "predictor_width": 192},
}
PRESETS = ("small", "paper")
# Images of 224 pixels in patches of 16 have 14 x 14 tokens, as in the papers' ViT-S/16.
ENLARGED = 224
OTHERS = ("reference", "lightly")


def prepare(method: str, steps: int, options: dict[str, Any], preset: str = "small") -> Prepared:
    """Prepare the training that `run` takes. ``options`` are those of `sslkernels.training.train`.

    With ``preset`` "paper", the loss has its paper's size (`PAPER`), and the data is repeated until it fills a batch.

    Raises:
        ValueError, OSError: an option or the data is wrong, or ours would be the reference itself.
    """
    from sslkernels.training import run as training
    from sslkernels.training.config import TrainConfig

    if not 1 <= steps <= LARGEST_WHOLE:
        raise ValueError(f"--steps is {steps}; pass a whole number of at least 1, in 64 bits.")
    given = {name: value for name, value in options.items() if value is not None}
    dataset = None
    if check_choice("bench train", "--preset", preset, PRESETS) == "paper":
        if method not in PAPER:
            raise ValueError(f"--preset is paper and METHOD {method}; accepted are {', '.join(PAPER)}.")
        given = {**PAPER[method], **given}
        dataset = _enlarged(load(str(given.get("data", "digits"))), given)
    config = TrainConfig.from_options(method, given)
    prepared = training.prepare(config, given, dataset)
    if prepared.backend == "reference":
        raise ValueError("the backend is reference, which the others are compared with; pass another as --backend.")
    return prepared


def _enlarged(dataset: Dataset, options: dict[str, Any]) -> Dataset:
    """Repeat the training samples until they fill a batch, and enlarge images where the backbone takes patches."""
    inputs, size = dataset.inputs, options["batch_size"]
    if "patch_size" in options:
        if dataset.modality != "images":
            raise ValueError(f"--preset is paper and --data holds {dataset.modality}; pass images for this method.")
        inputs = F.interpolate(inputs[:size], size=(ENLARGED, ENLARGED), mode="bilinear")
    if len(inputs) < size:
        inputs = inputs[torch.arange(size) % len(inputs)]
    return replace(dataset, inputs=inputs, labels=None, test_labels=None, classes=(), partners=None)


def run(
    prepared: Prepared, steps: int, tell: Callable[[str], None], preset: str = "small", against: str = "reference"
) -> list[Record]:
    """Train three times and make a record each of the other side, ours and the control. ``tell`` hears what is done.

    The other side is our own `reference`, or the method made of lightly's parts.
    """
    from sslkernels.bench.lightly import peer_of
    from sslkernels.training.loader import Samples
    from sslkernels.training.measure import costs_of, on_backend
    from sslkernels.training.run import seed

    config, learner, backend = prepared.config, prepared.learner.to(prepared.device), prepared.backend

    def made(name: str) -> Method:
        if name == backend:
            return on_backend(learner, backend)
        return peer_of(config.method, learner) if against == "lightly" else on_backend(learner, "reference")

    check_choice("bench train", "--against", against, OTHERS)
    curves = {}
    for name in (against, backend, CONTROL):
        title = f"{config.method}, {name}"
        tell(title)
        method = made(name)
        if name == CONTROL:
            seed(config.seed)
            _move_by_a_rounding(method)
        curves[name] = _train(method, prepared, steps, lambda text: tell(f"{title}: {text}"))  # noqa: B023
        del method
    tell(f"{config.method}, one step on {backend} and {against}")
    images, known = Samples(prepared.dataset, learner.needs).first(config.batch_size, prepared.device)
    costs = costs_of({name: made(name) for name in (backend, against)}, prepared.views, images, None, known)

    reference, control = curves[against], curves[CONTROL]
    noise = _distances(control, reference)
    allowed = max(CURVE, TIMES_CONTROL * noise["deviation"])
    records = []
    for name, curve in curves.items():
        distances = _distances(curve, reference)
        record = {
            "kind": "train",
            "method": config.method,
            "data": printable(config.data),
            "batch_size": config.batch_size,
            "steps": steps,
            "seed": config.seed,
            "backend": name,
            "preset": preset,
            "against": against,
            "losses": curve.losses.tolist(),
            **distances,
            "control_deviation": noise["deviation"],
            "allowed_deviation": allowed,
        }
        # The control may do anything: its first gradient may be a ReLU's kink away.
        record["agrees"] = name != backend or not _too_far(record)
        records.append(record | asdict(costs[name]) if name in costs else record)
    return records


def deviations(losses: Sequence[float], reference: Sequence[float]) -> list[float]:
    """How far every step's loss is off, relative to the reference's or to the median of its curve if that is larger."""
    theirs, own = (torch.tensor(values, dtype=torch.float64) for values in (reference, losses))
    sizes = theirs.abs()
    return ((own - theirs).abs() / sizes.clamp(min=float(sizes.median()))).tolist()


def verdict(records: Sequence[Record]) -> str:
    """Say in one sentence with the numbers whether the curves agree."""
    _, ours, _ = by_role(records)
    if not ours["agrees"]:
        return f"{ours['method']} on {ours['backend']} does not agree with {_other(ours)}: {'; '.join(_too_far(ours))}."
    return (
        f"{ours['method']} on {ours['backend']} agrees with {_other(ours)} over {_steps(ours)}: the first loss to "
        f"{ours['first_loss_deviation']:.1e}, the first gradient to {ours['first_gradient_deviation']:.1e}, the curve "
        f"to {ours['deviation']:.1e}; weights moved by one rounding carry it {ours['control_deviation']:.1e} away."
    )


def _other(record: Record) -> str:
    """Name the side that ours is compared with."""
    return record.get("against", "reference")


def _too_far(record: Record) -> list[str]:
    return [
        f"{what} is off by {record[key]:.1e}, allowed is {allowed:.1e}"
        for key, what, allowed in (
            ("first_loss_deviation", "the first loss", FIRST_LOSS),
            ("first_gradient_deviation", "the first gradient", FIRST_GRADIENT),
            ("deviation", "the curve", record["allowed_deviation"]),
        )
        if not record[key] <= allowed  # NaN is too far as well
    ]


def by_role(records: Sequence[Record]) -> tuple[Record, Record, Record]:
    """The records in this order: the other side (reference, or lightly), ours, control."""
    found = {record["backend"]: record for record in records}
    reference, control = found.pop(records[0].get("against", "reference")), found.pop(CONTROL)
    (ours,) = found.values()
    return reference, ours, control


def print_records(records: Sequence[Record], console: Console) -> None:
    """Print what a step costs on both, where ours costs more, and whether the curves agree."""
    from rich.markup import escape
    from rich.table import Table

    reference, ours, _ = by_role(records)
    table = Table(
        title=escape(f"{_what(ours)}: {_place(ours)}"),
        caption="one step: views, forward, backward, optimizer, update · loss: forward and backward · "
        f"ratio: images/s of ours ÷ {_other(ours)}",
    )
    table.add_column("backend", no_wrap=True)
    updates = ours["update_milliseconds"] is not None
    for name in ("images/s", "ratio", "step", "loss", *(["update"] if updates else []), "peak memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for record in (reference, ours):
        parts = [f"{record['loss_milliseconds']:.2f} ms ({record['loss_share']:.1%})"]
        if updates:
            parts.append(f"{record['update_milliseconds']:.2f} ms ({record['update_share']:.1%})")
        memory, ratio = record["peak_memory_bytes"], record["images_per_second"] / reference["images_per_second"]
        table.add_row(
            record["backend"],
            f"{record['images_per_second']:.0f}",
            f"[bold red]{ratio:.2f}x[/]" if round(ratio, 2) < 1 else f"{ratio:.2f}x",
            f"{_step_milliseconds(record):.1f} ms",
            *parts,
            "–" if memory is None else f"{memory / 2**20:.1f} MiB",
        )
    console.print(table)
    for sentence in [*remarks(records), *([verdict(records)] if ours["agrees"] else [])]:
        console.print(sentence, highlight=False, soft_wrap=True)


def remarks(records: Sequence[Record]) -> list[str]:
    """Write a line for each cost in which ours is slower or takes more memory."""
    reference, ours, _ = by_role(records)
    lines = []
    for word, what, cost in (
        ("slower", "a step", _step_milliseconds),
        ("slower", "the loss", itemgetter("loss_milliseconds")),
        ("slower", "the update", itemgetter("update_milliseconds")),
        ("more memory", "a step", itemgetter("peak_memory_bytes")),
    ):
        mine, theirs = cost(ours), cost(reference)
        if mine and theirs and round(theirs / mine, 2) < 1:
            lines.append(
                f"[red]{word}[/]: {what} on {ours['backend']} takes {mine / theirs:.2f}x what {_other(ours)} takes."
            )
    return lines


def draw(records: Sequence[Record]) -> bytes:
    """Draw the curves as PNG bytes: ours over reference, and below it how far ours and the control are away."""
    from sslkernels.training.pictures import agreement

    reference, ours, control = by_role(records)
    ratio = ours["images_per_second"] / reference["images_per_second"]
    return agreement(
        # A dollar would begin a formula.
        f"{ours['method']} on {ours['data']}: {ratio:.2f}× the images per second of {_other(ours)}".replace("$", r"\$"),
        f"Batches of {ours['batch_size']}, seed {ours['seed']}. {_place(ours)}",
        reference["losses"],
        (ours["backend"], ours["losses"]),
        {
            ours["backend"]: deviations(ours["losses"], reference["losses"]),
            "control: weights\nmoved by a rounding": deviations(control["losses"], reference["losses"]),
        },
        ours["allowed_deviation"],
    )


def _what(record: Record) -> str:
    return f"{record['method']} on {record['data']}, batches of {record['batch_size']}"


def _place(record: Record) -> str:
    return f"{record['device']['name']}, {record['threads']} threads, torch {record['versions']['torch']}"


def _step_milliseconds(record: Record) -> float:
    return 1e3 * record["batch_size"] / record["images_per_second"]


def _steps(record: Record) -> str:
    return f"{record['steps']} step{'s' * (record['steps'] != 1)}"


@dataclass(frozen=True)
class _Curve:
    losses: Tensor
    """float64 ``(steps,)``."""
    gradients: list[Tensor]
    """The gradient of every weight at the first step, with zeros where none came."""


def _train(method: Method, prepared: Prepared, steps: int, tell: Callable[[str], None]) -> _Curve:
    """Train as `sslkernels train` does, without its engine."""
    from sslkernels.training.batches import given_of, images_of
    from sslkernels.training.optimizer import WEIGHT_DECAY, optimizer_and_schedule
    from sslkernels.training.run import seed

    seed(prepared.config.seed)
    optimizer, schedule = optimizer_and_schedule(method, prepared.config.lr, WEIGHT_DECAY, steps)
    losses: list[float] = []
    gradients: list[Tensor] = []
    views = copy.deepcopy(prepared.views)  # they may remember samples
    for step, batch in enumerate(itertools.islice(_batches(prepared), steps)):
        given = {name: values.to(prepared.device) for name, values in given_of(batch, method.needs).items()}
        loss = method(views(images_of(batch).to(prepared.device)), **given)["loss"]
        loss.backward()
        method.before_step(step, steps)
        if step == 0:
            gradients = [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in method.parameters()]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        method.after_step(step, steps)
        losses.append(loss.item())
        tell(f"step {step + 1} of {steps}")
    return _Curve(torch.tensor(losses, dtype=torch.float64), gradients)


def _batches(prepared: Prepared) -> Iterator[Any]:
    """Yield the batches of `sslkernels train`, without an end."""
    from sslkernels.training.loader import Batches

    config = prepared.config
    loader = Batches(prepared.dataset, config.batch_size, config.seed, prepared.learner.needs).train_dataloader()
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)
        yield from loader


@torch.no_grad()
def _move_by_a_rounding(method: Method) -> None:
    """Move each weight up or down by chance: a normalised network hardly sees a common factor."""
    for weight in method.parameters():
        weight.copy_(torch.nextafter(weight, torch.where(torch.rand_like(weight) < 0.5, -torch.inf, torch.inf)))


def _distances(curve: _Curve, reference: _Curve) -> dict[str, float]:
    over_steps = deviations(curve.losses.tolist(), reference.losses.tolist())
    norm = torch.linalg.vector_norm
    sizes = torch.stack([norm(g) for g in reference.gradients])
    off = torch.stack([norm(g - r) for g, r in zip(curve.gradients, reference.gradients, strict=True)])
    return {
        "first_loss_deviation": over_steps[0],
        "first_gradient_deviation": float((off / sizes.clamp(min=LEAST_SHARE * float(norm(sizes)))).max()),
        "deviation": float(torch.tensor(over_steps).max()),
    }
