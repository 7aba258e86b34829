# SPDX-License-Identifier: Apache-2.0
"""Runs a training from options to report: train or resume, evaluate, measure, write what was found."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import logging
import platform
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn

from sslkernels.arguments import check_callable, check_flag, check_path
from sslkernels.data import Dataset
from sslkernels.evaluation import calibrate_batchnorm, collapse_warning, encode, few_shot, knn, linear_probe
from sslkernels.files import PARTIAL, write_atomically
from sslkernels.methods import METHODS, Method
from sslkernels.training.checkpoint import FORMAT, NAME, AtomicCheckpointIO, SaveLast, read_checkpoint, saved_spread
from sslkernels.training.config import TrainConfig
from sslkernels.training.devices import EndWithParent, OneMachine, strategy_of
from sslkernels.training.loader import ImageBatches
from sslkernels.training.logs import FOLDERS, RunLog
from sslkernels.training.measure import step_costs
from sslkernels.training.module import LitMethod
from sslkernels.training.pictures import painting_samples
from sslkernels.training.progress import ENGINE_LOGGERS, ShowProgress, hush
from sslkernels.training.report import write_report
from sslkernels.training.resume import FollowSchedule, Resumed, fingerprint, load_data
from sslkernels.training.signals import stopping

AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
VERSIONS = ("lightning", "kornia", "scikit-learn", "numpy")
PROBES: dict[str, Callable[..., float | None]] = {"few_shot": few_shot, "linear": linear_probe, "knn": knn}


def train(
    method: str, out: str | PathLike[str], *, resume: bool = False, say: Callable[[str], Any] = print, **options: Any
) -> dict[str, Any]:
    """Train ``method`` and write ``metrics.json``, ``report.html``, ``last.ckpt`` and logs into ``out``.

    Args:
        method: one of `sslkernels.methods.available()`.
        out: a folder that is new or empty, or that holds a run without a whole epoch. With ``resume`` it is the folder
            of an interrupted run, which continues after its last whole epoch on the same loss curve.
        say: called with a line when a new part of the work begins.
        options: fields of `TrainConfig`, and the method's options; those left out or None come from the method's preset
            or the checkpoint. A resumed run may take another ``data``, if the same images have moved there, and other
            ``epochs``, whose schedule it follows from there on.

    Returns:
        The content of ``metrics.json``. Its probes are None if the data has no labels, or one class.

    Raises:
        ValueError, TypeError, OSError: an option, the data or the checkpoint is wrong, and nothing has been written;
            or a file cannot be written.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM came. If there is a ``last.ckpt``, it is whole.
    """
    out, resume = check_path("train", "out", out), check_flag("train", "resume", resume)
    check_callable("train", "say", say)
    with stopping():
        return _train(method, out, resume, say, options)


def _train(method: str, out: Path, resume: bool, say: Callable[[str], Any], options: dict[str, Any]) -> dict[str, Any]:
    def warn(sentence: str) -> None:
        say(f"warning: {sentence}")

    resumed = Resumed.read(out / NAME, method) if resume else None
    if resumed is not None:
        config, dataset = resumed.continued(options, warn)
        given: Collection[str] = config.saved()
    else:
        config = TrainConfig.from_options(method, options)
        if out.exists() and not _is_free(out):
            raise FileExistsError(
                f"train: --out is {out}, which is not an empty folder; pass another, or --resume to continue its run."
            )
        _check_apart(out, config.data)
        dataset = load_data(config, warn)
        given = [name for name, value in options.items() if value is not None]
    prepared = prepare(config, given, dataset)
    config, learner, views = prepared.config, prepared.learner, prepared.views
    device, backend, count = prepared.device, prepared.backend, len(dataset.train_images)
    module = LitMethod(learner, views=views, lr=config.lr)
    if resumed is not None:
        resumed.check_fits(module)

    try:
        out.mkdir(parents=True, exist_ok=True)
        for left in out.glob(f".*{PARTIAL}"):
            left.unlink()
    except OSError as error:
        raise ValueError(f"train: --out is {out}, which cannot be created ({error.strerror}); pass another.") from error
    say(f"{config.method} on {config.data}: {count} images, {config.epochs} epochs, backend {backend}, into {out}")
    if resumed is not None and resumed.planned != config.epochs:
        say(
            f"{resumed.planned} epochs were planned and {resumed.done} are done: from here on the learning rate "
            f"follows the schedule of {config.epochs}"
        )
    untrained = copy.deepcopy(learner.backbone).to(device)
    curves = _fit(module, config, dataset, out, resume)
    collapse = collapse_warning(curves["feature_std"], curves["effective_rank"])
    if collapse:
        warn(collapse)

    say("evaluating the features")
    learner.to(device)
    trained = copy.deepcopy(learner.backbone)
    features: dict[str, tuple[Tensor, Tensor]] = {}
    for name, backbone in (("", trained), ("_untrained", untrained)):
        calibrate_batchnorm(backbone, dataset.train_images)
        features[name] = encode(backbone, dataset.train_images), encode(backbone, dataset.test_images)
    features["_pixels"] = dataset.train_images.flatten(1), dataset.test_images.flatten(1)
    metrics: dict[str, Any] = {"format": FORMAT}
    labelled = len(dataset.classes) > 1
    if not labelled:
        say("the probes are left out: they compare classes, and the data has no labels, or one class")
    for probe, accuracy in PROBES.items():
        for name, (rows, test_rows) in features.items():
            found = accuracy(rows, dataset.train_labels, test_rows, dataset.test_labels) if labelled else None
            metrics[probe + name] = found

    say("measuring a training step")
    images = dataset.train_images[: config.batch_size].to(device)
    costs = step_costs(learner, views, images, list(dict.fromkeys((backend, "reference"))), AUTOCAST[config.precision])
    for suffix, cost in (("", costs[backend]), ("_reference", costs["reference"])):
        metrics |= {key + suffix: value for key, value in asdict(cost).items()}
    metrics |= {
        "backend": backend,
        "method": config.method,
        "data": config.data,
        "seed": config.seed,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "config": config.saved(),
        "versions": _versions(),
        **curves,
    }
    write_atomically(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    say("drawing the report")
    images = painting_samples(dataset)
    painted = learner.reconstruct(images.to(device))
    painting = None if painted is None else (images, *(each.cpu() for each in painted))
    write_atomically(out / "report.html", write_report(metrics, dataset, *features[""], painting))
    return metrics


@dataclass(frozen=True)
class Prepared:
    """All that a run begins with. The loss of ``learner`` runs on ``backend`` on ``device``."""

    config: TrainConfig
    dataset: Dataset
    learner: Method
    views: nn.Module
    device: torch.device
    backend: str


def prepare(config: TrainConfig, given: Collection[str], dataset: Dataset | None = None) -> Prepared:
    """Load the data, fit ``config`` to it, seed everything, build the method; options in ``given`` stay as they are."""
    if dataset is None:
        dataset = load_data(config, warnings.warn)
    count, channels, height, width = dataset.train_images.shape
    size = height, width
    if count < 2 * config.devices:
        raise ValueError(
            f"train: {config.data} has {count} training images and --devices is {config.devices}; "
            "every device needs two."
        )
    if config.batch_size > count:
        if "batch_size" in given:
            raise ValueError(
                f"train: --batch-size is {config.batch_size} and {config.data} has {count} training images; "
                f"pass at most {count}."
            )
        config = config.changed(batch_size=count - count % config.devices)
    if config.batch_size < 2 * config.devices:
        raise ValueError(
            f"train: --devices is {config.devices} and a batch has {config.batch_size} images; every device needs two."
        )
    kind = METHODS[config.method]
    config = config.changed(**{name: value for name, value in kind.fitting(size).items() if name not in given})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and config.precision == "16-mixed":
        raise ValueError("train: --precision is 16-mixed, which needs a GPU, and none is here; pass bf16-mixed.")
    if device.type == "cuda" and config.devices > torch.cuda.device_count():
        raise ValueError(f"train: --devices is {config.devices} and this machine has {torch.cuda.device_count()} GPUs.")
    backend = kind.family.choose(device, AUTOCAST[config.precision] or torch.float32, config.backend)
    seed(config.seed)
    learner = kind.small(channels, size, backend=config.backend, group="world", **config.method_options)
    return Prepared(config, dataset, learner, kind.make_views(channels, size), device, backend)


def seed(value: int) -> None:
    """Seed torch, NumPy and Python, without the line that Lightning prints about it."""
    with _quiet_engine():
        seed_everything(value, verbose=False)


def _check_apart(out: Path, data: str) -> None:
    """Refuse to write results where the next run would read them as pictures."""
    kind, _, path = data.partition(":")
    if kind == "imagefolder" and path and out.resolve().is_relative_to(Path(path).resolve()):
        raise ValueError(f"train: --out is {out}, inside the pictures of {path}; pass a folder elsewhere.")


def _is_free(out: Path) -> bool:
    """Tell if the folder is empty, or was left by a run that had no checkpoint yet."""
    return out.is_dir() and all(entry.name in FOLDERS or entry.name.endswith(PARTIAL) for entry in out.iterdir())


def _fit(module: LitMethod, config: TrainConfig, dataset: Dataset, out: Path, resume: bool) -> dict[str, list]:
    """Train to the end, and load ``last.ckpt`` into ``module``. Gives the loss of steps and the spread of epochs."""
    stamp = {"format": FORMAT, "method": config.method, "config": config.saved(), "data": fingerprint(dataset)}
    with _quiet_engine(), strategy_of(config.devices) as strategy:
        trainer = Trainer(
            accelerator="cuda" if torch.cuda.is_available() else "cpu",
            devices=config.devices,
            strategy=strategy,
            sync_batchnorm=config.devices > 1 and torch.cuda.is_available(),
            precision=config.precision,
            max_epochs=config.epochs,
            accumulate_grad_batches=config.accumulate,
            logger=RunLog(out),
            callbacks=[SaveLast(out), ShowProgress(), FollowSchedule(), EndWithParent()],
            plugins=[AtomicCheckpointIO(stamp), OneMachine()],
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        batches = ImageBatches(dataset.train_images, config.batch_size, config.seed)
        try:
            trainer.fit(module, batches, ckpt_path=out / NAME if resume else None)
        except SystemExit as error:  # the engine turns a KeyboardInterrupt of a caller's handler into this
            raise KeyboardInterrupt from error
    if trainer.interrupted:
        raise KeyboardInterrupt
    # Several devices train in processes of their own, and only the checkpoint tells what happened there.
    checkpoint: dict[str, Any] = {"epoch": -1}
    if (out / NAME).is_file():
        checkpoint = read_checkpoint(out / NAME, config.method)
    if checkpoint["epoch"] + 1 < config.epochs:
        remedy = "lower --lr" if "temperature" not in config.method_options else "lower --lr or raise --temperature"
        raise ValueError(
            f"train: the loss was no finite number in epoch {checkpoint['epoch'] + 2}; {remedy}, with another --out."
        )
    module.load_state_dict(checkpoint["state_dict"])
    return {"loss": checkpoint["loss"], **saved_spread(checkpoint)}


@contextmanager
def _quiet_engine() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ENGINE_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            hush()
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _versions() -> dict[str, str]:
    from sslkernels import __version__

    found = {name: importlib.metadata.version(name) for name in VERSIONS}
    own = {"sslkernels": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return {**own, **found, "system": platform.platform()}
