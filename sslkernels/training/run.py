# SPDX-License-Identifier: Apache-2.0
"""Runs a training from options to report: train or resume, evaluate, measure, write what was found."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import logging
import platform
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn

from sslkernels.arguments import check_callable, check_flag, check_path
from sslkernels.data import Dataset, Spec
from sslkernels.drawing import png
from sslkernels.evaluation import (
    calibrate_batchnorm,
    collapse_warning,
    encode,
    evaluated,
    few_shot,
    knn,
    linear_probe,
    targets_warning,
)
from sslkernels.files import PARTIAL, write_atomically
from sslkernels.methods import Method
from sslkernels.training.batches import views_of
from sslkernels.training.checkpoint import (
    FORMAT,
    NAME,
    AtomicCheckpointIO,
    SaveLast,
    random_state,
    read_checkpoint,
    saved_figures,
    saved_spread,
    set_random_state,
)
from sslkernels.training.config import TrainConfig
from sslkernels.training.devices import EndWithParent, Launched, OneMachine, strategy_of
from sslkernels.training.loader import Batches, Samples, known, reading
from sslkernels.training.logs import FOLDERS, RunLog
from sslkernels.training.measure import on_backend, step_costs, training_step
from sslkernels.training.module import LitMethod
from sslkernels.training.pictures import samples
from sslkernels.training.progress import ENGINE_LOGGERS, ShowProgress, hush
from sslkernels.training.report import write_report
from sslkernels.training.resume import FollowSchedule, Resumed, fingerprint, load_data
from sslkernels.training.sharded import check_shareable
from sslkernels.training.signals import stopping
from sslkernels.training.start import Start
from sslkernels.training.threads import fastest_threads

AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
# Data whose reader takes whatever lies in its folder.
WALKED = ("audiofolder", "imagefolder", "webdataset")
# The format of metrics.json: 2 has the floor of raw features under _raw.
METRICS_FORMAT = 2
VERSIONS = ("lightning", "kornia", "scikit-learn", "numpy")
PROBES: dict[str, Callable[..., float | None]] = {"few_shot": few_shot, "linear": linear_probe, "knn": knn}


def train(
    method: str,
    out: str | PathLike[str],
    *,
    resume: bool = False,
    paper: bool = False,
    say: Callable[[str], Any] = print,
    **options: Any,
) -> dict[str, Any]:
    """Train ``method`` and write ``metrics.json``, ``report.html``, ``last.ckpt`` and logs into ``out``.

    Args:
        method: one of `sslkernels.recipes.available()`, a method or a recipe.
        out: a folder that is new or empty, or that holds a run without a whole epoch. With ``resume`` it is the folder
            of an interrupted run, which continues after its last whole epoch on the same loss curve.
        paper: take the paper's numbers where no option says otherwise, in place of those that two cores learn with.
        say: called with a line when a new part of the work begins.
        options: fields of `TrainConfig`, and settings of method and backbone; those left out or None come from the
            recipe or the checkpoint. A resumed run may take another ``data``, if the same samples have moved there,
            other ``epochs``, whose schedule it follows from there on, and other ``devices``, ``nodes``, ``strategy``
            and ``workers``. ``start`` is the folder of a run whose weights the new one begins with, as far as their
            names and shapes match; a line says which were taken.

    Returns:
        The content of ``metrics.json``. Its probes are None if the data has no labels, or one class. ``_untrained``
        is always the network with random weights; a run with a ``start`` has ``_started``, before its first step, too.

    Raises:
        ValueError, TypeError, OSError: an option, the data or the checkpoint is wrong, and nothing has been written;
            or a file cannot be written.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM came. If there is a ``last.ckpt``, it is whole.
    """
    out, resume = check_path("train", "out", out), check_flag("train", "resume", resume)
    paper = check_flag("train", "paper", paper)
    check_callable("train", "say", say)
    with stopping():
        return _train(method, out, resume, paper, say, options)


def _train(
    method: str, out: Path, resume: bool, paper: bool, say: Callable[[str], Any], options: dict[str, Any]
) -> dict[str, Any]:
    launched = Launched.read(options.get("nodes"))
    alone = launched is None or launched.rank == 0  # one process speaks and writes for all
    if launched is not None:
        options = launched.options(options)
        say = say if alone else lambda line: None

    def warn(sentence: str) -> None:
        say(f"warning: {sentence}")

    if resume and options.get("start") is not None:
        raise ValueError(
            "train: --start came with --resume, and a run that is resumed has begun already; leave one of them out."
        )
    resumed = Resumed.read(out / NAME, method) if resume else None
    start: Start | None = None
    if resumed is not None:
        config, dataset = resumed.continued(options, warn)
        given: Collection[str] = config.saved()
    else:
        config = TrainConfig.from_options(method, options, paper)
        if alone and out.exists() and not _is_free(out):
            raise FileExistsError(
                f"train: --out is {out}, which is not an empty folder; pass another, or --resume to continue its run."
            )
        _check_apart(out, config.data)
        start = None if config.start is None else Start.read(config.start)
        dataset = load_data(config, warn)
        given = [name for name, value in options.items() if value is not None]
    prepared = prepare(config, given, dataset, start)
    config, learner, views = prepared.config, prepared.learner, prepared.views
    device, backend, count, modality = prepared.device, prepared.backend, len(dataset.inputs), config.recipe.modality
    config = _with_threads(config, prepared)
    if config.compile:
        learner.backbone.compile()
        views.compile()
    module = LitMethod(
        learner,
        views=views,
        lr=config.lr,
        weight_decay=config.weight_decay,
        final_weight_decay=config.final_weight_decay,
    )
    if resumed is not None:
        resumed.check_fits(module)

    if alone:
        _make(out)
    say(
        f"{config.method} on {config.data}: {count} {modality.name}, {config.epochs} epochs, backend {backend}, "
        f"into {out}"
    )
    if resumed is not None and resumed.planned != config.epochs:
        say(
            f"{resumed.planned} epochs were planned and {resumed.done} are done: from here on the learning rate "
            f"follows the schedule of {config.epochs}"
        )
    started = None if resumed is None else resumed.checkpoint.get("started")
    if start is not None:
        say(prepared.begun)
        if alone:
            say("evaluating the features that it begins with")
            started = _worth_before(learner.backbone, dataset, device)
    curves = _fit(module, config, dataset, out, 0 if resumed is None else resumed.done, launched, started)
    if not alone:
        return {}
    learner = module.method
    warned = [
        sentence
        for sentence in (
            collapse_warning(curves["feature_std"], curves["effective_rank"]),
            targets_warning(curves["figures"][-1]),
        )
        if sentence is not None
    ]
    for sentence in warned:
        warn(sentence)

    say("evaluating the features")
    seen = evaluated(dataset)
    learner.to(device)
    features = _features(copy.deepcopy(learner.backbone), seen)
    worth = {"": _worth(*features, seen), "_untrained": _worth(*_features(prepared.untrained.to(device), seen), seen)}
    if started is not None:
        worth["_started"] = started
    worth["_raw"] = _worth(modality.raw(seen.inputs), modality.raw(seen.test_inputs), seen)
    metrics: dict[str, Any] = {"format": METRICS_FORMAT}
    if len(dataset.classes) < 2:
        say("the probes are left out: they compare classes, and the data has no labels, or one class")
    for probe in PROBES:
        metrics |= {probe + name: found[probe] for name, found in worth.items()}
        metrics[f"{probe}_pixels"] = metrics[f"{probe}_raw"]  # the name before there were other samples than images

    metrics["scores"] = _scores(learner, seen, device)

    say("measuring a training step")
    inputs, given = Samples(dataset, learner.needs).first(config.batch_size, device)
    costs = step_costs(
        learner, views, inputs, list(dict.fromkeys((backend, "reference"))), AUTOCAST[config.precision], given
    )
    for suffix, cost in (("", costs[backend]), ("_reference", costs["reference"])):
        metrics |= {key + suffix: value for key, value in asdict(cost).items()}
    metrics |= {
        "backend": backend,
        "method": config.method,
        "data": config.data,
        "modality": modality.name,
        "needs": list(learner.needs),
        "split": dataset.group or "sample",
        "seed": config.seed,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "config": config.saved(),
        "versions": versions(),
        "warnings": warned,
        **curves,
    }
    write_atomically(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    say("drawing the report")
    figure = learner.picture(samples(seen).to(device))
    picture = None if figure is None else png(figure)
    write_atomically(out / "report.html", write_report(metrics, seen, *features, modality.draw, picture))
    return metrics


def _features(backbone: nn.Module, seen: Dataset) -> tuple[Tensor, Tensor]:
    """Compute features of training and test samples; the backbone's BatchNorm takes its statistics from the former."""
    calibrate_batchnorm(backbone, seen.inputs)
    return encode(backbone, seen.inputs), encode(backbone, seen.test_inputs)


def _worth(rows: Tensor, test_rows: Tensor, seen: Dataset) -> dict[str, float | None]:
    """Say what each probe finds in features; None where there are no classes to compare."""
    labelled = len(seen.classes) > 1
    return {
        name: probe(rows, seen.labels, test_rows, seen.test_labels) if labelled else None
        for name, probe in PROBES.items()
    }


def _worth_before(backbone: nn.Module, dataset: Dataset, device: torch.device) -> dict[str, float | None]:
    """Say what a backbone is worth before the first step, which changes neither it nor what is drawn later."""
    before, seen = random_state(), evaluated(dataset)
    found = _worth(*_features(copy.deepcopy(backbone).to(device), seen), seen)
    set_random_state(before)
    return found


def _scores(learner: Method, dataset: Dataset, device: torch.device) -> dict[str, float]:
    """Compute the method's own figures on held-out samples, from a random state of their own."""
    training = learner.training
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        labels = None if dataset.test_labels is None else dataset.test_labels.to(device)
        given = {name: dataset.test_extra[name].to(device) for name in learner.needs if name in dataset.test_extra}
        found = learner.eval().scores(dataset.test_inputs[:].to(device), labels, **given)
    learner.train(training)
    return found


@dataclass(frozen=True)
class Prepared:
    """All that a run begins with. The loss of ``learner`` runs on ``backend`` on ``device``.

    ``untrained`` is a copy of its backbone with random weights, and ``begun`` says what it has of another run.
    """

    config: TrainConfig
    dataset: Dataset
    learner: Method
    views: nn.Module
    device: torch.device
    backend: str
    untrained: nn.Module
    begun: str = ""


def prepare(
    config: TrainConfig, given: Collection[str], dataset: Dataset | None = None, start: Start | None = None
) -> Prepared:
    """Load the data, fit ``config`` to it, seed everything, build the method; options in ``given`` stay as they are.

    The method takes the weights of ``start``, as far as they match.
    """
    if dataset is None:
        dataset = load_data(config, warnings.warn)
    recipe, count, devices = config.recipe, len(dataset.inputs), config.devices * config.nodes
    check_needs(config, dataset, recipe.needs)
    if count < 2 * devices:
        raise ValueError(
            f"train: {config.data} has {count} training samples and there are {devices} devices; every device needs "
            "two."
        )
    if config.batch_size > count:
        if "batch_size" in given:
            raise ValueError(
                f"train: --batch-size is {config.batch_size} and {config.data} has {count} training samples; "
                f"pass at most {count}."
            )
        config = config.changed(batch_size=count - count % devices)
    if config.batch_size < 2 * devices:
        raise ValueError(
            f"train: there are {devices} devices and a batch has {config.batch_size} samples; every device needs two."
        )
    fitted = {name: value for name, value in recipe.fitted(dataset).items() if name not in config.method_options}
    config = config.changed(**fitted)
    if config.nodes > 1 and Launched.read(config.nodes) is None:
        raise ValueError(
            f"train: --nodes is {config.nodes} and nobody started this command on several machines; start it with "
            "torchrun --nnodes or with srun."
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and config.precision == "16-mixed":
        raise ValueError("train: --precision is 16-mixed, which needs a GPU, and none is here; pass bf16-mixed.")
    if device.type == "cuda" and config.devices > torch.cuda.device_count():
        raise ValueError(f"train: --devices is {config.devices} and this machine has {torch.cuda.device_count()} GPUs.")
    backend = recipe.method.family.choose(device, AUTOCAST[config.precision] or torch.float32, config.backend)
    seed(config.seed)
    backbone = recipe.build_backbone(dataset, config.method_options)
    untrained = copy.deepcopy(backbone)
    if start is not None:
        start.load_backbone(backbone, config.method)
    learner = recipe.build(dataset, config.method_options, backbone, backend=config.backend, group="world")
    begun = "" if start is None else start.load_rest(learner)
    check_needs(config, dataset, learner.needs)
    if config.strategy == "fsdp2":
        check_shareable(config.method, learner)
    views = recipe.build_views(dataset, config.method_options)
    _check_views(config, dataset, learner, views)
    return Prepared(config, dataset, learner, views, device, backend, untrained, begun)


def _check_views(config: TrainConfig, dataset: Dataset, learner: Method, views: nn.Module) -> None:
    """Refuse data whose views the method cannot work on; what is drawn for that is forgotten."""
    before = random_state()
    inputs, _ = Samples(dataset).first(2, torch.device("cpu"))
    try:
        learner.check_views(views_of(copy.deepcopy(views)(inputs)))  # they may remember samples
    except (ValueError, TypeError) as error:
        raise ValueError(f"train: {config.method} cannot train on {config.data}: {error}") from error
    set_random_state(before)


class Lacking(ValueError):
    """The data lacks what a method needs of each sample."""


def check_needs(config: TrainConfig, dataset: Dataset, needs: Sequence[str]) -> None:
    """Check that the data has what the method needs of each sample besides the sample itself."""
    has = known(dataset)
    missing = [name for name in needs if name not in has]
    if missing:
        raise Lacking(
            f"train: {config.method} needs {missing[0]} of each sample, and {config.data} has "
            f"{', '.join(sorted(has))}; pass --data that has it."
        )


def _with_threads(config: TrainConfig, prepared: Prepared) -> TrainConfig:
    """Set torch's number of threads, the fastest of a few if none is given; what measuring draws is forgotten."""
    if prepared.device.type != "cpu":
        return config
    if config.threads is None:
        most = max(1, torch.get_num_threads() // config.devices)
        before = random_state()
        samples = Samples(prepared.dataset, prepared.learner.needs)
        inputs, given = samples.first(config.batch_size // config.devices, prepared.device)
        learner = on_backend(prepared.learner, prepared.backend)
        views = copy.deepcopy(prepared.views)  # they may remember samples
        step = training_step(learner, views, inputs, given, AUTOCAST[config.precision])
        config = config.changed(threads=fastest_threads(step, most))
        set_random_state(before)
    torch.set_num_threads(config.threads)  # type: ignore[arg-type]
    return config


def seed(value: int) -> None:
    """Seed torch, NumPy and Python, without the line that Lightning prints about it."""
    with _quiet_engine():
        seed_everything(value, verbose=False)


def _check_apart(out: Path, data: str) -> None:
    """Refuse to write results where the next run would read them as data."""
    name, path, _ = Spec.of(data)
    if name in WALKED and path and out.resolve().is_relative_to(Path(path).resolve()):
        raise ValueError(f"train: --out is {out}, inside the data of {path}; pass a folder elsewhere.")


def _make(out: Path) -> None:
    """Make the folder, and remove what a kill left half written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for left in out.glob(f".*{PARTIAL}"):
            left.unlink()
    except OSError as error:
        raise ValueError(f"train: --out is {out}, which cannot be created ({error.strerror}); pass another.") from error


def _is_free(out: Path) -> bool:
    """Tell if the folder is empty, or was left by a run that had no checkpoint yet."""
    return out.is_dir() and all(entry.name in FOLDERS or entry.name.endswith(PARTIAL) for entry in out.iterdir())


def _fit(
    module: LitMethod,
    config: TrainConfig,
    dataset: Dataset,
    out: Path,
    done: int,
    launched: Launched | None,
    started: dict[str, float | None] | None,
) -> dict[str, list]:
    """Train to the end, from the checkpoint if epochs are ``done`` already, and load ``last.ckpt`` into ``module``.

    The checkpoint keeps ``started``, what a backbone was worth that did not begin untrained. Gives the loss of steps,
    and the spread and the figures of epochs.
    """
    stamp = {"format": FORMAT, "method": config.method, "config": config.saved(), "data": fingerprint(dataset)}
    if started is not None:
        stamp["started"] = started
    with _quiet_engine(), reading(), strategy_of(config, launched) as strategy:
        trainer = Trainer(
            accelerator="cuda" if torch.cuda.is_available() else "cpu",
            devices=config.devices,
            num_nodes=config.nodes,
            strategy=strategy,
            sync_batchnorm=config.devices * config.nodes > 1 and torch.cuda.is_available(),
            precision=config.precision,
            max_epochs=config.epochs,
            accumulate_grad_batches=config.accumulate,
            gradient_clip_val=config.clip_gradients,
            logger=RunLog(out),
            callbacks=[SaveLast(out), ShowProgress(), FollowSchedule(), EndWithParent()],
            plugins=[AtomicCheckpointIO(stamp), OneMachine() if launched is None else launched.by()],
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        batches = Batches(
            dataset, config.batch_size, config.seed, module.method.needs, workers=config.workers, first_epoch=done
        )
        try:
            trainer.fit(module, batches, ckpt_path=out / NAME if done else None)
        except SystemExit as error:  # the engine turns a KeyboardInterrupt of a caller's handler into this
            raise KeyboardInterrupt from error
    if trainer.interrupted:
        raise KeyboardInterrupt
    if launched is not None and launched.rank:
        return {}
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
    return {"loss": checkpoint["loss"], **saved_spread(checkpoint), "figures": saved_figures(checkpoint)}


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


def versions() -> dict[str, str]:
    """Versions of this package, of Python, and of what a run works with."""
    from sslkernels import __version__

    found = {name: importlib.metadata.version(name) for name in VERSIONS}
    own = {"sslkernels": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return {**own, **found, "system": platform.platform()}
