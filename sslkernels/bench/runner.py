# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmark: a record per workload, dtype and provider, from gate, memory, time and floor, in this order."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import sslkernels
from sslkernels import _C
from sslkernels.bench import device_timing, timing
from sslkernels.bench.cases.case import Exact, Inputs, Step
from sslkernels.bench.control import ATTEMPTS, ON_DEVICE, control, settled
from sslkernels.bench.gate import Truth, copied, restored
from sslkernels.bench.journal import Journal
from sslkernels.bench.providers import PROVIDERS, Ours, Provider, chosen_backend
from sslkernels.bench.records import FORMAT, GLIBC, Record
from sslkernels.bench.workloads import Workload
from sslkernels.terminal import printable

_ISA_FLAGS = ("avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")


def run(
    workloads: Sequence[Workload],
    dtypes: Sequence[str],
    providers: Sequence[Provider],
    device: torch.device,
    seconds: float,
    tell: Callable[[str], None],
    journal: Journal | None = None,
) -> list[Record]:
    """Make the record of every combination, with ``seconds`` of timing each. ``tell`` hears what is being done.

    Each case is added to the journal when it is done, and one that is there already is not measured again. Its floor
    there knows the rates of the cases so far; the returned records know all of them.
    """
    shared = environment(device)
    bandwidth, peaks = _peaks(dtypes, device, tell)
    earlier = journal.cases(shared) if journal else {}
    records: list[Record] = []
    for workload in workloads:
        for dtype in dtypes:
            tell(f"{workload} {dtype}")
            known = [earlier.get((str(workload), dtype, provider.name)) for provider in providers]
            case = [record for record in known if record is not None]
            if len(case) < len(providers):
                case = [{**shared, **record} for record in _case(workload, dtype, providers, device, seconds, tell)]
                _add_floors(case, bandwidth, peaks)
                if journal:
                    journal.append(case)
            records += case
    _add_floors(records, bandwidth, peaks)
    return records


def environment(device: torch.device) -> Record:
    """The fields that say where and with what. They are the same in every record of a run."""
    return {
        "format": FORMAT,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
        "versions": {
            "sslkernels": sslkernels.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "device": {"type": device.type, "name": device_name(device), "isa": _C.isa(), "cpu_flags": _cpu_flags()},
        "threads": torch.get_num_threads(),
        "allocator": _allocator(),
        "precision": precision(),
    }


def precision() -> Record:
    """How float32 products are rounded, as torch says by its old and its new name. None where it refuses to say."""

    def told(ask: Callable[[], str]) -> str | None:
        try:
            return ask()
        except (AttributeError, RuntimeError):  # torch does not say it by one name when it was set by both
            return None

    return {
        "float32_matmul": told(torch.get_float32_matmul_precision),
        "cuda_matmul": told(lambda: torch.backends.cuda.matmul.fp32_precision),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_line("model name") or platform.processor() or platform.machine()


def _case(
    workload: Workload,
    dtype_name: str,
    providers: Sequence[Provider],
    device: torch.device,
    seconds: float,
    tell: Callable[[str], None],
) -> list[Record]:
    dtype = getattr(torch, dtype_name)
    chosen = chosen_backend(workload, device, dtype)
    records: dict[str, Record] = {}
    for provider in providers:
        why = provider.why_not(workload, device, dtype)
        records[provider.name] = {
            "family": workload.family,
            "workload": str(workload),
            "op": workload.op,
            "preset": workload.preset,
            "shape": list(workload.shape),
            "dtype": dtype_name,
            "provider": provider.name,
            "chosen": provider.name == chosen,
            "status": "skipped" if why else "ok",
            "why": why,
            "note": None,
        }
    able = [provider for provider in providers if records[provider.name]["status"] == "ok"]
    if not able:
        return list(records.values())

    # pages that another allocator than glibc's keeps cannot be given back, and would be used again unseen
    unseen = device.type == "cpu" and _allocator() != GLIBC
    inputs = workload.inputs(dtype, device)
    before = copied(inputs)
    truths: dict[Exact, Truth] = {}
    timed: dict[str, tuple[Step, Inputs]] = {}
    for provider in able:
        record = records[provider.name]
        tell(f"{workload} {dtype_name}: checking {provider.name}")
        task = provider.task(workload, inputs)
        record["note"] = task.note
        if task.exact not in truths:
            truths[task.exact] = Truth.of(workload, inputs, task.exact)
        try:
            step = provider.step(workload, task.inputs)
            gate = truths[task.exact].gate(step, task.inputs)
            refusal = gate.complaint if isinstance(provider, Ours) else gate.refusal
            record["memory_bytes"] = None if refusal or unseen else timing.step_memory(step, task.inputs)
            record["workspace_bytes"] = _C.workspace_bytes()
        except Exception as error:  # a provider that breaks is a result, and the others still run
            first_line = printable(next(iter(str(error).splitlines()), ""))[:1000]
            record.update(status="failed", why=f"{provider.name} raised {type(error).__name__}: {first_line}")
            continue
        record["gate"] = {"error": gate.errors, "eager_error": gate.eager, "allowed": gate.allowed}
        changed = restored(inputs, before)
        if refusal:
            record.update(status="failed", why=f"{provider.name} is wrong and was not timed: {refusal}.")
        elif changed:
            record.update(status="failed", why=f"{provider.name} was not timed: it changed {changed} in place.")
        else:
            timed[provider.name] = step, task.inputs
            record["off"] = gate.complaint
    if not timed:
        return list(records.values())
    load, runnable = os.getloadavg()[0], _runnable()
    what, control_seconds = control(timed, dtype, device)
    timings, stood = settled(
        what,
        control_seconds,
        lambda: timing.interleaved(timed, seconds, lambda name: tell(f"{workload} {dtype_name}: timing {name}")),
        ON_DEVICE if timing.on_device(device) else ATTEMPTS,
    )
    clocks = {"clocks": device_clocks(device)} if timing.on_device(device) else {}
    for name, found in timings.items():
        records[name].update(
            stood, **found.fields(), **clocks, load_average=load, runnable=runnable, megahertz=_megahertz()
        )
    return list(records.values())


def _peaks(
    dtypes: Sequence[str], device: torch.device, tell: Callable[[str], None]
) -> tuple[float, dict[str, tuple[float, str]]]:
    tell("measuring peaks: a large copy and a large matrix product")
    peaks = {dtype: (timing.matmul_peak(getattr(torch, dtype), device), "torch.mm") for dtype in dtypes}
    return timing.copy_bandwidth(device), peaks


def _add_floors(records: list[Record], bandwidth: float, peaks: dict[str, tuple[float, str]]) -> None:
    """Add the floor to every record. Where one of ours did better than torch.mm, that is the peak."""
    timed = [record for record in records if "seconds" in record]
    costs = {}
    for record in timed:
        workload = Workload(record["op"], tuple(record["shape"]))
        cost = costs[id(record)] = workload.cost(getattr(torch, record["dtype"]))
        reached = cost.operations / record["seconds"]["fwd+bwd"]["median"]
        if isinstance(PROVIDERS.get(record["provider"]), Ours) and reached > peaks[record["dtype"]][0]:
            peaks[record["dtype"]] = (reached, f"{record['provider']} on {workload}")
    for record in timed:
        cost, (peak, source) = costs[id(record)], peaks[record["dtype"]]
        floor = timing.floor(cost, peak, bandwidth)
        record["floor"] = {
            "seconds": floor.seconds,
            "fraction": floor.seconds / record["seconds"]["fwd+bwd"]["median"],
            "bound": floor.bound,
            "operations": cost.operations,
            "bytes": cost.bytes,
            "peak_operations_per_second": peak,
            "peak_source": source,
            "copy_bytes_per_second": bandwidth,
        }


def _commit() -> str | None:
    """The commit of the package's source tree, with "-dirty" where files differ. None when installed elsewhere."""
    package = Path(sslkernels.__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=package, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit}-dirty" if git("status", "--porcelain", "--untracked-files=no") else commit


def _allocator() -> str:
    """The allocator of host memory. Another than glibc's comes by LD_PRELOAD."""
    try:
        mapped = Path("/proc/self/maps").read_text()
    except OSError:
        return GLIBC
    return next((name for name in ("tcmalloc", "jemalloc") if f"lib{name}" in mapped), GLIBC)


def _runnable() -> int | None:
    """How many other threads run or could now, where the system tells it."""
    try:
        return max(0, int(Path("/proc/loadavg").read_text().split()[3].split("/")[0]) - 1)
    except (OSError, ValueError, IndexError):
        return None


def _megahertz() -> float | None:
    """The frequency of the first processor now, where the system tells it."""
    try:
        return int(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq").read_text()) / 1e3
    except (OSError, ValueError):
        told = _cpu_line("cpu MHz")
        return float(told) if told else None


def device_clocks(device: torch.device) -> Record:
    """The clocks of a CUDA device in MHz, its temperature in °C and its power in W, as far as they are told.

    ``measured`` is what a sleep of known cycles gives; the others are nvidia-smi's.
    """
    asked = {"sm": "clocks.sm", "memory": "clocks.mem", "most_sm": "clocks.max.sm",
             "temperature": "temperature.gpu", "power": "power.draw"}  # fmt: skip
    command = ["nvidia-smi", f"--query-gpu={','.join(asked.values())}", "--format=csv,noheader,nounits"]
    found: Record = dict.fromkeys(asked)
    try:
        done = subprocess.run([*command, f"--id={device.index or 0}"], capture_output=True, text=True, timeout=10)
        found = {name: _float(told) for name, told in zip(asked, done.stdout.split(","), strict=True)}
    except (OSError, subprocess.TimeoutExpired, ValueError):  # there is no nvidia-smi, or it said something else
        pass
    return {"measured": round(device_timing.clock() / 1e6, 1), **found}


def _float(told: str) -> float | None:
    try:
        return float(told)
    except ValueError:  # [N/A]
        return None


def _cpu_flags() -> list[str]:
    flags = set((_cpu_line("flags") or _cpu_line("Features") or "").split())
    return [flag for flag in _ISA_FLAGS if flag in flags]


def _cpu_line(key: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == key), None)
