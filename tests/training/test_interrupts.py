# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM end a run soon, with a sentence, and the caller's handlers come back."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

from small_runs import OPTIONS, finish, interrupt, start, wait_for  # noqa: E402

from sslkernels.training import run as running  # noqa: E402
from sslkernels.training import train  # noqa: E402

STUCK = """
import os, signal, sys, threading, time, torch
from sslkernels import cli
def send():
    for delay in {delays}:
        time.sleep(delay)
        print(time.monotonic(), flush=True)
        os.kill(os.getpid(), signal.{name})
signal.signal(signal.SIGTERM, signal.default_int_handler)
cli.GRACE = {grace}
matrix = torch.rand(6000, 6000)
with cli._ending(lambda number: cli._complain("interrupted.", 128 + number)):
    threading.Thread(target=send, daemon=True).start()
    torch.linalg.svd(matrix)  # Python handles no signal until this minute is over
"""


@pytest.mark.parametrize(
    ("name", "delays", "grace"),
    [("SIGINT", (0.5, 0.2), 60), pytest.param("SIGTERM", (0.5,), 1, marks=pytest.mark.slow)],
)
def test_the_second_interrupt_ends_at_once_whatever_runs(run_python, name, delays, grace):
    """The first one ends the process soon, even if the main thread is in C++ and cannot handle it."""
    done = run_python(STUCK.format(name=name, delays=delays, grace=grace), OMP_NUM_THREADS="1")
    assert done.returncode == 128 + getattr(signal, name), done.stderr
    assert done.stderr == "sslkernels: interrupted.\n"
    last = float(done.stdout.split()[-1])
    assert time.monotonic() - last < 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "devices"),
    [("INT", 1), ("TERM", 1), ("INT INT", 1), ("TERM INT", 1), ("INT", 2), ("TERM", 2)],
)
def test_an_interrupt_ends_soon_with_the_sentence(copied, signals, devices):
    process = start(copied, *OPTIONS, "--epochs", "100000", "--devices", str(devices), "--out", "other")
    wait_for(process, copied / "other" / "last.ckpt")
    if devices > 1:
        assert listeners_elsewhere(process.pid) == []
    sent = [getattr(signal, f"SIG{name}") for name in signals.split()]
    for number in sent:
        if devices > 1 and number == signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal signals the whole group
        else:
            process.send_signal(number)
    code, _, err = finish(process, seconds=10)
    assert code in [128 + number for number in sent]
    assert err == "sslkernels: interrupted; other/last.ckpt is whole, continue with --out other --resume.\n"
    for _ in range(50):  # the engine's watcher of shared memory ends a little later
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("processes are left")
    assert torch.load(copied / "other" / "last.ckpt", weights_only=True)["format"] == 1


def listeners_elsewhere(group: int) -> list[str]:
    """List the sockets, except those on loopback, on which processes of ``group`` listen."""
    owned = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                owned |= {os.readlink(each) for each in (process / "fd").iterdir()}
        except OSError:
            continue
    found = []
    for table, local in (("tcp", "0100007F"), ("tcp6", "0" * 24 + "01000000")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in owned and not fields[1].startswith(local):
                found.append(fields[1])
    return found


@pytest.mark.parametrize("own", [False, True])
def test_signals_are_the_callers_again_after_a_run(copied, monkeypatch, own):
    """The engine ignores Ctrl-C for good once it has seen a KeyboardInterrupt."""
    before = signal.getsignal(signal.SIGINT)
    mine = (lambda *_: None) if own else before
    monkeypatch.setattr(running.LitMethod, "training_step", interrupt)
    signal.signal(signal.SIGINT, mine)
    try:
        with pytest.raises(KeyboardInterrupt):
            train("simclr", "other", data="npz:small.npz", epochs=1, say=str)
        assert signal.getsignal(signal.SIGINT) is mine and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
