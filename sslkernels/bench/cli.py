# SPDX-License-Identifier: Apache-2.0
"""The command `sslkernels bench list | run | compare | plot | train`."""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sslkernels.bench import judge, page, pictures, runner, tables, train, workloads
from sslkernels.bench.explain import parse_device
from sslkernels.bench.journal import Journal
from sslkernels.bench.providers import OTHERS, PROVIDERS
from sslkernels.bench.providers import select as select_providers
from sslkernels.bench.records import Record, load, read, write
from sslkernels.files import write_atomically
from sslkernels.recipes import available
from sslkernels.terminal import say

if TYPE_CHECKING:
    from rich.console import Console

SECONDS, QUICK_SECONDS = 2.0, 0.05
STEPS, PAPER_STEPS = 50, 3
_FLOOR = """\
floor: the larger of operations / peak and bytes / copy bandwidth, all measured in the same run. The peak is that of a
large torch.mm in the dtype, or the best rate one of our kernels reached where that is higher (the table says which).
A fraction of the floor counts no exponentials, which are most of the work in bf16.
memory: on Linux the kernel's high-water mark of resident memory (VmHWM after writing 5 to /proc/self/clear_refs) above
what was resident before; on CUDA the allocator's.
every case that is done is kept in OUT.part until OUT is written, so that the same command goes on after a kill.
on CUDA the time is the device's; host and graph are the host's view of a step and its replay as a CUDA graph."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of ``sslkernels bench``."""
    commands = parser.add_subparsers(dest="bench_command", required=True, metavar="list|run|compare|plot|train")

    def command(name: str, what: str, example: str, more: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=what,
            description=what[0].upper() + what[1:] + ".",
            epilog=f"example:\n  {example}" + (f"\n\n{more}" if more else ""),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    listing = command("list", "show workloads, targets and providers", "sslkernels bench list")
    listing.add_argument("--device", default="cpu", help="cpu (default) or cuda")

    run_ = command(
        "run",
        "check every provider, then time it and measure its memory",
        "sslkernels bench run nt_xent --dtype fp32 --providers cpu,eager --out results.jsonl",
        _FLOOR,
    )
    run_.add_argument(
        "what", choices=workloads.NAMES, metavar="FAMILY|OP", help=f"{', '.join(workloads.NAMES[:-1])} or all"
    )
    run_.add_argument("--only", action="append", default=[], metavar="TEXT", help="workloads whose name contains TEXT")
    run_.add_argument("--dtype", choices=("fp32", "bf16"), help="one dtype; both by default")
    run_.add_argument("--providers", metavar="A,B", help=f"of {', '.join(PROVIDERS)}; all by default")
    run_.add_argument(
        "--preset",
        choices=("small", "recipe", "crossover"),
        help="small on a CPU, recipe on a GPU by default; crossover: from which size on dense PyTorch is behind",
    )
    run_.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    run_.add_argument("--seconds", type=float, default=SECONDS, help=f"timing per provider and case ({SECONDS:g})")
    run_.add_argument("--quick", action="store_true", help="tiny workloads: does it run? The times mean nothing")
    run_.add_argument("--out", type=Path, help="JSON lines; FAMILY-TIMESTAMP.jsonl here by default")

    compare = command(
        "compare", "compare two result files", "sslkernels bench compare before.jsonl after.jsonl --fail-over 10"
    )
    compare.add_argument("before", type=Path, metavar="A")
    compare.add_argument("after", type=Path, metavar="B")
    compare.add_argument(
        "--fail-over",
        type=float,
        metavar="PERCENT",
        help="exit 1 if a time or memory of ours grew by more, or one is missing",
    )

    plot = command(
        "plot",
        "draw result files: a page and its pictures, or one picture of ratios",
        "sslkernels bench plot similarity.jsonl ema.jsonl --out report",
        "Where several files have the same workload, dtype and provider on the same device, the latest stands.",
    )
    plot.add_argument("files", type=Path, nargs="+", metavar="FILE")
    plot.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="a folder for index.html and its pictures, or a .png"
    )

    train_ = command(
        "train",
        "train a method on the reference backend and on ours, compare curves and costs",
        "sslkernels bench train simclr --steps 50 --out simclr.jsonl",
        "The loss curves are drawn beside the records, under the same name with .png. Exit code 1 where they part by\n"
        "more than ten times what moving the first weights by one rounding does. Needs the extra sslkernels[train].\n"
        "all trains every method and recipe whose data is here, adds the records of each to OUT, and draws nothing.",
    )
    train_.add_argument("method", metavar="METHOD", help=f"all, or one of: {', '.join(available())}")
    train_.add_argument("--data", help="data, as sslkernels train takes it (default: the method's or recipe's own)")
    train_.add_argument("--backend", help="cpu, triton or cuda (default: the fastest that can run)")
    train_.add_argument("--batch-size", type=int, help="images of a step (default: the method's)")
    train_.add_argument(
        "--steps", type=int, help=f"optimizer steps of each run ({STEPS}; {PAPER_STEPS} with --preset paper)"
    )
    train_.add_argument("--preset", default="small", help="small (default), or paper: the loss at its paper's size")
    train_.add_argument("--against", default="reference", help="reference (default), or lightly: its losses and heads")
    train_.add_argument("--seed", type=int, help="of weights, order and views (default 0)")
    train_.add_argument("--out", type=Path, help="JSON lines; METHOD-TIMESTAMP.jsonl here by default")


def run(args: argparse.Namespace) -> int:
    """Run a subcommand and return its exit code.

    It is 0 where all went well, 130 after an interrupt, and 1 where one of ours was wrong or broke, or became slower
    than --fail-over allows. A mistake in the arguments raises a ValueError of one sentence, a missing rich or
    matplotlib a ModuleNotFoundError.
    """
    command = {"list": _list, "run": _run, "compare": _compare, "plot": _plot, "train": _train}[args.bench_command]
    try:
        return command(args)
    except KeyboardInterrupt:
        print(f"sslkernels bench {args.bench_command}: interrupted; nothing was written.", file=sys.stderr)
        return 130


def _list(args: argparse.Namespace) -> int:
    from rich.table import Table

    console, device = _console(), _device(args.device)
    table = Table(title="workloads (N or N per view, M, D)", caption="each in fp32 and bf16; ema: the source's")
    for name in ("preset", "workload", "targets, forward + backward"):
        table.add_column(name, no_wrap=name != "targets, forward + backward")
    for workload in workloads.WORKLOADS:
        targets = [
            judge.describe(target, dtype)
            for dtype in workloads.DTYPES
            for target in workload.targets_for(dtype, device.type)
        ]
        table.add_row(workload.preset, str(workload), ", ".join(targets))
    console.print(table)
    for name, provider in PROVIDERS.items():
        reasons = [provider.why_not(workload, device, torch.float32) for workload in workloads.WORKLOADS]
        console.print(
            f"provider {name}: {'available' if None in reasons else reasons[0]}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    return 0


def _run(args: argparse.Namespace) -> int:
    device = _device(args.device)
    preset: workloads.Preset = (
        "quick" if args.quick else args.preset or ("recipe" if device.type == "cuda" else "small")
    )
    chosen = workloads.select(args.what, preset, args.only)
    providers = select_providers(args.providers.split(",") if args.providers is not None else [])
    dtypes = [{"fp32": "float32", "bf16": "bfloat16"}[args.dtype]] if args.dtype else list(workloads.DTYPES)
    if not 0 < args.seconds < math.inf:
        raise ValueError(f"--seconds is {args.seconds:g}; pass a positive number.")
    seconds = QUICK_SECONDS if args.quick else args.seconds
    out = args.out or Path(f"{args.what}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl")
    _check_out(out)
    console, journal = _console(), Journal.beside(out)
    earlier = len(journal.records())
    if earlier:
        say(f"{journal.path} has {earlier} records of a run that was stopped: this one goes on from there.")
    try:
        with _progress(console, len(chosen) * len(dtypes)) as tell:
            records = runner.run(chosen, dtypes, providers, device, seconds, tell, journal)
    except KeyboardInterrupt:
        done = len(journal.records())
        if not done:
            raise
        again = f"the same command with --out {out} goes on from there unless you delete it"
        print(f"sslkernels bench run: interrupted; {done} records are in {journal.path}, and {again}.", file=sys.stderr)
        return 130
    write(records, out)
    journal.remove()
    tables.print_run(records, console)
    say(f"{len(records)} records written to {out}")
    broken = sum(r["status"] == "failed" and r["provider"] not in OTHERS for r in records)
    if broken:
        print(f"sslkernels bench run: {broken} of our own results failed; see the lines above.", file=sys.stderr)
    return 1 if broken else 0


def _compare(args: argparse.Namespace) -> int:
    if args.fail_over is not None and not 0 <= args.fail_over < math.inf:
        raise ValueError(f"--fail-over is {args.fail_over:g}; pass percent, 0 or more.")
    before, after = _benchmarks(args.before), _benchmarks(args.after)
    tables.print_comparison(before, after, _console())
    if args.fail_over is None:
        return 0
    worse = judge.regressions(before, after, args.fail_over)
    for sentence in worse:
        print(f"sslkernels bench compare: {sentence}", file=sys.stderr)
    return 1 if worse else 0


def _benchmarks(path: Path) -> list[Record]:
    found = [record for record in read(path) if "kind" not in record]
    if not found:
        raise ValueError(f"{path} holds records of `bench train` alone, which are not compared.")
    return found


def _plot(args: argparse.Namespace) -> int:
    picture = args.out.suffix.lower() == ".png"
    _check_out(args.out / "index.html" if os.path.isdir(args.out) and not picture else args.out)
    if not picture and args.out.is_file():
        raise ValueError(f"--out is {args.out}, which is a file; pass a folder or a .png.")
    found = load(args.files)
    if picture:
        if len(found.families) != 1:
            there = ", ".join(found.families) or "none"
            raise ValueError(f"--out is {args.out}, a picture of one family; the files hold {there}: pass a folder.")
        (records,) = found.families.values()
        drawn = {args.out: pictures.png(pictures.ratios(records), records)}
    else:
        drawn = {args.out / name: content for name, content in page.files(found).items()}
        args.out.mkdir(exist_ok=True)
    for path, content in drawn.items():
        write_atomically(path, content)
    say(f"{', '.join(path.name for path in drawn)} written to {args.out}")
    return 0


def _train(args: argparse.Namespace) -> int:
    out = args.out or Path(f"{args.method}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl")
    _check_out(out)
    if args.method == "all":
        return _train_all(args, out)
    picture = out.with_suffix(".png")
    if out == picture:
        raise ValueError(f"--out is {out}, the name of the picture; pass one that ends in .jsonl.")
    _check_out(picture)
    options = {name: getattr(args, name) for name in ("data", "backend", "batch_size", "seed")}
    steps = _steps(args)
    prepared = train.prepare(args.method, steps, options, args.preset)
    from sslkernels.training.memory import keep_freed_memory

    keep_freed_memory()
    console = _console()
    shared = runner.environment(prepared.device)
    with _progress(console, train.CASES) as tell:
        records = [{**shared, **record} for record in train.run(prepared, steps, tell, args.preset, args.against)]
    drawn = train.draw(records)
    write(records, out)
    write_atomically(picture, drawn)
    train.print_records(records, console)
    say(f"{len(records)} records written to {out}, drawn in {picture}")
    if train.by_role(records)[1]["agrees"]:
        return 0
    print(f"sslkernels bench train: {train.verdict(records)}", file=sys.stderr)
    return 1


def _train_all(args: argparse.Namespace, out: Path) -> int:
    """Train every method and recipe.

    Those whose data is not here, or lacks what they need, are left out with a sentence each; beside lightly, so are all
    that it lacks.
    """
    from sslkernels.bench.lightly import BUILDERS
    from sslkernels.recipes import all_recipes
    from sslkernels.training.memory import keep_freed_memory
    from sslkernels.training.run import Lacking

    for name in ("data", "batch_size"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} came with all, which takes each one's own; leave it out.")
    keep_freed_memory()
    records: list[Record] = []
    options = {name: getattr(args, name) for name in ("backend", "seed")}
    names = list(train.PAPER) if args.preset == "paper" else [recipe.name for recipe in all_recipes()]
    if args.against == "lightly":
        names = [name for name in names if name in BUILDERS]
    for name in names:
        try:
            prepared = train.prepare(name, _steps(args), options, args.preset)
        except (FileNotFoundError, Lacking) as error:
            say(f"{name} is left out: {error}")
            continue
        with _progress(_console(), train.CASES) as tell:
            new = train.run(prepared, _steps(args), tell, args.preset, args.against)
        records += [{**runner.environment(prepared.device), **record} for record in new]
        write(records, out)  # whatever comes, what is done is kept
        say(train.verdict(new))
    if not records:
        raise FileNotFoundError("bench train all: no method's data is here; install a package that was named above.")
    say(f"{len(records)} records written to {out}")
    return 0 if all(record["agrees"] for record in records) else 1


def _steps(args: argparse.Namespace) -> int:
    if args.steps is not None:
        return args.steps
    return PAPER_STEPS if args.preset == "paper" else STEPS


def _device(name: str) -> torch.device:
    """The device of that name, which has to be here."""
    device = parse_device("", name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"--device is {name}, and torch finds {count or 'no'} CUDA devices here; run on cpu.")
    return device


def _check_out(path: Path) -> None:
    """Complain about --out before minutes of work rather than after them."""
    folder = path.absolute().parent
    try:
        if not folder.is_dir():
            raise ValueError(f"--out is {path}; the folder {folder} does not exist, create it first.")
        if path.is_dir():
            raise ValueError(f"--out is {path}, which is a folder; pass a file name.")
        if path.exists() and not path.is_file():
            raise ValueError(f"--out is {path}, which is no regular file; pass another name.")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"--out is {path}; nothing can be written there: {error.strerror}.") from error


def _console() -> Console:
    """The console is as wide as the terminal, or elsewhere wide enough that no cell of a table is folded."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=170)


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar on a terminal, and elsewhere a line per workload and dtype. Texts without a colon open the next."""
    if not console.is_terminal:
        begun = 0

        def line(text: str) -> None:
            nonlocal begun
            if ":" not in text:
                begun += 1
                print(f"[{begun}/{total}] {text}", flush=True)

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Four times a second is enough to follow and too little to disturb what is measured.
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task("", total=total)
        begun = 0

        def show(text: str) -> None:
            nonlocal begun
            begun += ":" not in text
            bar.update(task, description=text, completed=max(0, begun - 1))

        yield show
