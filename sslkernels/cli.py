# SPDX-License-Identifier: Apache-2.0
"""The command line: ``sslkernels train | evaluate | methods | bench | explain | info``."""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from torch import OutOfMemoryError

from sslkernels.terminal import printable, say, silence

TRAIN_EXAMPLE = """examples:
  sslkernels train simclr
  sslkernels train byol --data watch --set momentum=0.99
  sslkernels train simclr --data "imagefolder:photos?size=64" --epochs 50 --out runs/photos
  sslkernels train byol --data imagefolder:others --start runs/photos
  sslkernels train simclr --out runs/photos --resume
  sslkernels train simclr --out runs/photos --resume --epochs 100 --data imagefolder:moved/photos
"""
EVALUATE_EXAMPLE = """examples:
  sslkernels evaluate runs/photos
  sslkernels evaluate runs/photos --data "imagefolder:others?size=64" --only rank_me,alpha_req,knn
  sslkernels evaluate simclr
  sslkernels evaluate encoder.safetensors --backbone resnet --data fashion --set widths=32,64,128
  sslkernels evaluate features:z.npy labels:y.npy --out evaluations/z
"""
EXAMPLES = """examples:
  sslkernels train simclr                   train on handwritten digits, evaluate, write a report
  sslkernels evaluate RUN                   take every measure of its encoder, write a page
  sslkernels methods                        list methods and recipes
  sslkernels bench run similarity --quick   time the kernels against plain PyTorch
  sslkernels explain nt_xent --shape 4096,128 --dtype float32 --device cpu
  sslkernels info
"""
BENCH_EXAMPLE = """example:
  sslkernels bench run similarity --quick
"""
FROM_ELSEWHERE = {
    "bench": ("sslkernels.bench.cli", "time the kernels against plain PyTorch and its peers", BENCH_EXAMPLE),
    "explain": ("sslkernels.bench.explain", "say which backend and path would run an op, and what it costs", None),
}
EXTRAS = {"bench": "bench", "train": "train", "evaluate": "train", "methods": "train"}
# Settings of methods that had flags of their own before --set; they have them still, unlisted.
ALIASES = ("projection_dim", "hidden_dim", "queue_size", "temperature", "lambd", "sim", "var", "cov", "patch_size",
           "mask_ratio", "momentum")  # fmt: skip
# Seconds that a run has to clean up after the first signal.
GRACE = 3.0
INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    The code is 0, or 2 after an error (one sentence on stderr), 130 after Ctrl-C, and 141 if the reader of the output,
    such as ``head``, ended before the command.
    """
    code = _run(list(sys.argv[1:] if argv is None else argv))
    if argv is None and code in INTERRUPTED:
        os._exit(code)  # the interpreter's own clean-up takes a second, and fails at a further Ctrl-C
    return code


def _run(arguments: list[str]) -> int:
    try:
        options = _parser(arguments).parse_args(arguments)
        with _warning_in_sentences():
            code = int(options.run(options) or 0)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _complain("interrupted.", 128 + signal.SIGINT)
    except BrokenPipeError:
        silence()
        return 128 + signal.SIGPIPE
    except ModuleNotFoundError as error:
        command = arguments[0] if arguments else ""
        extra = "train" if arguments[:2] == ["bench", "train"] else EXTRAS.get(command)
        if extra is None or (error.name or "").startswith("sslkernels"):
            raise
        return _complain(f"{command} needs {error.name}, which is missing; pip install 'sslkernels[{extra}]'")
    except (ValueError, TypeError, OSError) as error:
        return _complain(" ".join(str(error).split()))
    except (MemoryError, RuntimeError) as error:
        # torch has no class of errors for host memory that runs out.
        if not isinstance(error, (MemoryError, OutOfMemoryError)) and "allocate memory" not in str(error):
            raise
        return _complain("there is not enough memory for this; pass smaller images, batches or dimensions.")


def _complain(sentence: str, code: int = 2) -> int:
    print(f"sslkernels: {printable(sentence)}", file=sys.stderr)
    return code


@contextmanager
def _warning_in_sentences() -> Iterator[None]:
    """Print warnings without their place in the source, which tells the user of a command nothing."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(
            f"sslkernels: warning: {printable(str(message))}", file=sys.stderr
        )
        yield


class _Parser(argparse.ArgumentParser):
    """A parser that reports wrong usage in one sentence, without the usage text."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    from sslkernels import __version__

    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="sslkernels",
        description="Fused kernels for self-supervised learning.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"sslkernels {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    train = commands.add_parser(
        "train",
        help="train a method, evaluate it, write a report",
        description="Train on images without labels, evaluate the features, write metrics.json and report.html.",
        epilog=TRAIN_EXAMPLE,
        formatter_class=raw,
    )
    _add_train_arguments(train)
    evaluated = commands.add_parser(
        "evaluate",
        help="take every measure of an encoder or of features, write a page",
        description="Take the measures that apply, write evaluation.json and evaluation.html.",
        epilog=EVALUATE_EXAMPLE,
        formatter_class=raw,
    )
    _add_evaluate_arguments(evaluated)
    listed = commands.add_parser(
        "methods",
        help="list methods and recipes",
        description="List methods and recipes with their papers; METHOD also shows its settings.",
        epilog="examples:\n  sslkernels methods --modality audio\n  sslkernels methods simclr\n",
        formatter_class=raw,
    )
    listed.add_argument("method", metavar="METHOD", nargs="?", help="one method or recipe, with its settings")
    listed.add_argument("--family", help="only those whose loss is of this family of ops, such as similarity")
    listed.add_argument("--modality", help="only those for this modality, such as images")
    listed.set_defaults(run=_methods)
    for name, (module, words, example) in FROM_ELSEWHERE.items():
        command = commands.add_parser(
            name, help=words, description=f"{words[0].upper()}{words[1:]}.", epilog=example, formatter_class=raw
        )
        if name in arguments[:1]:  # modules of other commands are not imported
            imported = importlib.import_module(module)
            imported.add_arguments(command)
            command.set_defaults(run=imported.run)
    info = commands.add_parser(
        "info",
        help="versions, instruction set and backends",
        description="Print versions, the instruction set, and each backend or why it is absent.",
        epilog="example:\n  sslkernels info\n",
        formatter_class=raw,
    )
    info.set_defaults(run=_info)
    return parser


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    from sslkernels.data.spec import accepted
    from sslkernels.recipes import available

    parser.add_argument("method", metavar="METHOD", help=f"a method or recipe: {', '.join(available())}")
    parser.add_argument(
        "--data",
        metavar="SPEC",
        help=f"NAME[:PATH][?setting=value&...], default by the method's modality; names are {accepted()}",
    )
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="NAME=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="settings of the method and its backbone, such as temperature=0.2; sslkernels methods METHOD lists them",
    )
    parser.add_argument("--paper", action="store_true", help="take the paper's numbers in place of small ones")
    parser.add_argument("--image-size", type=int, help="pixels that an imagefolder is resized to (default 32)")
    parser.add_argument("--epochs", type=int, help="passes over the training samples (default: the method's)")
    parser.add_argument("--batch-size", type=int, help="samples of one forward pass over all devices")
    parser.add_argument("--lr", type=float, help="peak learning rate of AdamW (default: the method's)")
    parser.add_argument("--weight-decay", type=float, help="of AdamW (default 0.0001)")
    parser.add_argument("--final-weight-decay", type=float, help="where it ends (default: it stays as it is)")
    parser.add_argument("--clip-gradients", type=float, help="largest norm of all gradients (default: any)")
    for name in ALIASES:
        parser.add_argument(f"--{name.replace('_', '-')}", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help="of weights, order and views (default 0)")
    parser.add_argument("--backend", help="reference, cpu, triton or cuda (default: the fastest that can run)")
    parser.add_argument("--precision", help="32-true (default), bf16-mixed or 16-mixed")
    parser.add_argument(
        "--compile", action="store_true", default=None, help="compile backbone and views (torch.compile)"
    )
    parser.add_argument("--devices", type=int, help="GPUs, or processes on the CPU, of each machine (default 1)")
    parser.add_argument("--nodes", type=int, help="machines (default 1); torchrun or Slurm starts the command on each")
    parser.add_argument("--strategy", help="ddp (default), or fsdp2 to share weights and optimizer among the devices")
    parser.add_argument("--threads", type=int, help="of a processor (default: the fastest of a few measured steps)")
    parser.add_argument("--workers", type=int, help="processes that read files (default: by the machine)")
    parser.add_argument("--accumulate", type=int, help="forward passes of one optimizer step (default 1)")
    parser.add_argument("--start", metavar="RUN", help="folder of a run, of any method, whose weights to begin with")
    parser.add_argument("--out", type=Path, help="folder for results (default runs/METHOD-TIMESTAMP)")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out; with --epochs to train longer"
    )
    parser.set_defaults(run=_train)


def _add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        metavar="WHAT",
        help="the folder of a run; a method or recipe, whose untrained encoder it takes; a file of weights with "
        "--backbone; or features:FILE.npy, rows (N, D)",
    )
    parser.add_argument("labels", metavar="labels:FILE.npy", nargs="?", help="labels (N,) of features")
    parser.add_argument("--data", metavar="SPEC", help="other data, as sslkernels train takes it")
    parser.add_argument(
        "--only",
        metavar="NAMES",
        help="measures, with commas between (default: all that are quick)",
    )
    parser.add_argument("--backbone", metavar="NAME", help="the network of a file of weights, such as resnet or vit")
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="NAME=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="arguments of --backbone, or settings of the recipe",
    )
    parser.add_argument("--out", type=Path, help="folder for results (default: the run's own, or a new one in runs)")
    parser.set_defaults(run=_evaluate)


def _set(options: argparse.Namespace) -> dict[str, Any]:
    """The options of a run that came on the command line, those of ``--set`` among them; all but numbers are text."""
    given = {name: value for name, value in vars(options).items() if name not in ("run", "out", "settings")}
    for pair in options.settings:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"train: --set is {pair!r}; write NAME=VALUE, such as temperature=0.2.")
        if given.get(name) is not None:
            raise ValueError(f"train: --set {name} came, and {name} came before; pass it once.")
        given[name] = value
    return given


def _train(options: argparse.Namespace) -> int:
    if options.resume and options.out is None:
        raise ValueError("train: --resume came without --out; pass --out with the folder of the run to continue.")
    given = _set(options)
    out = options.out or Path("runs") / f"{options.method}-{datetime.now():%Y%m%d-%H%M%S}"

    def interrupted(number: int) -> int:
        kept = out / "last.ckpt"
        if not kept.is_file():
            return _complain("interrupted before the first epoch was over; nothing to resume.", 128 + number)
        return _complain(f"interrupted; {kept} is whole, continue with --out {out} --resume.", 128 + number)

    try:
        with _ending(interrupted):
            from sslkernels.training import train
            from sslkernels.training.memory import keep_freed_memory

            keep_freed_memory()
            metrics = train(out=out, say=say, **given)
            if not metrics:  # another process speaks for all that were started together
                return 0
    except KeyboardInterrupt:
        return interrupted(signal.SIGINT)
    except SystemExit:
        return interrupted(signal.SIGTERM)
    say(f"report: {out / 'report.html'}")
    _print_figures(metrics)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    def interrupted(number: int) -> int:
        return _complain("interrupted; evaluate the same again to begin anew.", 128 + number)

    only = None if options.only is None else [name for name in options.only.replace(" ", "").split(",") if name]
    try:
        with _ending(interrupted):
            from sslkernels.inspection import evaluate

            found, folder = evaluate(
                options.what,
                options.labels,
                data=options.data,
                backbone=options.backbone,
                settings=options.settings,
                only=only,
                out=options.out,
                say=say,
            )
    except KeyboardInterrupt:
        return interrupted(signal.SIGINT)
    except SystemExit:
        return interrupted(signal.SIGTERM)
    say(f"page: {folder / 'evaluation.html'}")
    for name, each in found["measures"].items():
        beside = f"   untrained {each['untrained']:.4f}" if "untrained" in each else ""
        say(f"{name:30} {each['value']:.4f}{beside}")
    for name, why in found["failed"].items():
        say(f"{name:30} failed: {why}")
    return 0


@contextmanager
def _ending(tell: Callable[[int], object]) -> Iterator[None]:
    """End the process soon after the first SIGINT or SIGTERM, and at once after the second, whatever runs.

    Python handles a signal only between its own instructions, and a step of a large network or a cleanup that waits may
    take minutes. Only the main thread may ask for signals; in other threads nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    ending = threading.Lock()  # whoever holds it decides how the process ends
    threading.Thread(target=_watch, args=(receiver, ending, tell), daemon=True).start()
    try:
        yield
    finally:
        ending.acquire()
        signal.set_wakeup_fd(before)
        sender.close()


def _watch(receiver: socket.socket, ending: threading.Lock, tell: Callable[[int], object]) -> None:
    """Read signals' numbers from ``receiver`` until its other end is closed; end the process when they ask for it."""
    first = 0
    while True:
        try:
            (number,) = receiver.recv(1) or (0,)
        except TimeoutError:
            number = first
        if number == 0:
            receiver.close()
            return
        if number not in (signal.SIGINT, signal.SIGTERM):
            continue
        if first:
            break
        first = number
        receiver.settimeout(GRACE)
    if not ending.acquire(blocking=False):
        return
    if sys.stdout is not None and sys.stdout.isatty():
        print("\x1b[?25h", flush=True)  # the progress bar has hidden the cursor
    tell(first)
    for process in multiprocessing.active_children():
        process.kill()
    os._exit(128 + first)


def _print_figures(metrics: dict) -> None:
    for key, value in metrics.items():
        # Most methods have no update; _pixels is the former name of _raw.
        if key == "format" or key.endswith("_pixels") or (value is None and key.startswith("update_")):
            continue
        if isinstance(value, float):
            say(f"{key:30} {value:.4f}")
        elif isinstance(value, (int, str)) or value is None:
            say(f"{key:30} {value}")
    for key, value in metrics["scores"].items():
        say(f"{key:30} {value:.4f}")
    for key in ("feature_std", "effective_rank"):
        if metrics[key][-1] is not None:  # an earlier version did not measure it
            say(f"{key:30} {metrics[key][-1]:.4f} after {len(metrics[key])} epochs")
    say(f"{'loss':30} {metrics['loss'][-1]:.4f} after {len(metrics['loss'])} steps")


def _methods(options: argparse.Namespace) -> int:
    from sslkernels.listing import print_methods

    print_methods(options.method, options.family, options.modality)
    return 0


def _info(options: argparse.Namespace) -> int:
    from sslkernels.backends import info

    print(info())
    return 0
