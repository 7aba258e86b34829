# SPDX-License-Identifier: Apache-2.0
"""The command line: ``sslkernels train | bench | explain | info``."""

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
from typing import NoReturn

from torch import OutOfMemoryError

from sslkernels.terminal import printable, say, silence

TRAIN_EXAMPLE = """examples:
  sslkernels train simclr
  sslkernels train simclr --data imagefolder:photos --epochs 50 --out runs/photos
  sslkernels train simclr --out runs/photos --resume
  sslkernels train simclr --out runs/photos --resume --epochs 100 --data imagefolder:moved/photos
"""
EXAMPLES = """examples:
  sslkernels train simclr                   train on handwritten digits, evaluate, write a report
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
EXTRAS = {"bench": "bench", "train": "train"}
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
    from sslkernels.methods import all_options, available

    parser.add_argument("method", metavar="METHOD", help=f"one of: {', '.join(available())}")
    parser.add_argument("--data", help="digits (default), imagefolder:PATH, cifar10:PATH (binary version) or npz:PATH")
    parser.add_argument("--image-size", type=int, help="pixels that an imagefolder is resized to (default 32)")
    parser.add_argument("--epochs", type=int, help="passes over the training images (default: the method's)")
    parser.add_argument("--batch-size", type=int, help="images of one forward pass over all devices")
    parser.add_argument("--lr", type=float, help="peak learning rate of AdamW (default: the method's)")
    for name, option in all_options().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=option.kind, help=option.words)
    parser.add_argument("--seed", type=int, help="of weights, order and views (default 0)")
    parser.add_argument("--backend", help="reference, cpu, triton or cuda (default: the fastest that can run)")
    parser.add_argument("--precision", help="32-true (default), bf16-mixed or 16-mixed")
    parser.add_argument("--devices", type=int, help="GPUs, or processes on the CPU (default 1)")
    parser.add_argument("--accumulate", type=int, help="forward passes of one optimizer step (default 1)")
    parser.add_argument("--out", type=Path, help="folder for results (default runs/METHOD-TIMESTAMP)")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out; with --epochs to train longer"
    )
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    if options.resume and options.out is None:
        raise ValueError("train: --resume came without --out; pass --out with the folder of the run to continue.")
    given = {name: value for name, value in vars(options).items() if name not in ("run", "out")}
    out = options.out or Path("runs") / f"{options.method}-{datetime.now():%Y%m%d-%H%M%S}"

    def interrupted(number: int) -> int:
        kept = out / "last.ckpt"
        if not kept.is_file():
            return _complain("interrupted before the first epoch was over; nothing to resume.", 128 + number)
        return _complain(f"interrupted; {kept} is whole, continue with --out {out} --resume.", 128 + number)

    try:
        with _ending(interrupted):
            from sslkernels.training import train

            metrics = train(out=out, say=say, **given)
    except KeyboardInterrupt:
        return interrupted(signal.SIGINT)
    except SystemExit:
        return interrupted(signal.SIGTERM)
    say(f"report: {out / 'report.html'}")
    _print_figures(metrics)
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
        if key == "format" or (value is None and key.startswith("update_")):  # most methods have no update
            continue
        if isinstance(value, float):
            say(f"{key:30} {value:.4f}")
        elif isinstance(value, (int, str)) or value is None:
            say(f"{key:30} {value}")
    for key in ("feature_std", "effective_rank"):
        if metrics[key][-1] is not None:  # an earlier version did not measure it
            say(f"{key:30} {metrics[key][-1]:.4f} after {len(metrics[key])} epochs")
    say(f"{'loss':30} {metrics['loss'][-1]:.4f} after {len(metrics['loss'])} steps")


def _info(options: argparse.Namespace) -> int:
    from sslkernels.backends import info

    print(info())
    return 0
