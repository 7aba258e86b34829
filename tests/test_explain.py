# SPDX-License-Identifier: Apache-2.0
"""`sslkernels explain` puts the backend, the path, the cost and the floor into words."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import pytest
import torch

from sslkernels import _C
from sslkernels.bench import explain, timing
from sslkernels.bench.workloads import Workload


@pytest.fixture
def known_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "matmul_peak", lambda *_: 1e12)
    monkeypatch.setattr(timing, "copy_bandwidth", lambda *_: 1e10)


def explained(*arguments: str, capsys: pytest.CaptureFixture) -> dict[str, str]:
    parser = argparse.ArgumentParser()
    explain.add_arguments(parser)
    assert explain.run(parser.parse_args(arguments)) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line[:12].strip(): line[13:] for line in lines if line[:12].strip()}


@pytest.mark.parametrize(
    "op, shape, words",
    [
        ("nt_xent", "64,32", "triangular"),
        ("info_nce", "32x128x16", "flash"),
        ("clip_loss", "64x32", "Latin square"),
        ("logsumexp_similarity", "16,24,8", "one side"),
        ("barlow_twins", "32,96", "side of samples, since N = 32 < D = 96: two of 32 x 32"),
        ("barlow_twins", "96,32", "side of features, since D = 32 <= N = 96: one of 32 x 32"),
        ("vicreg", "96,32", "two of 32 x 32"),
    ],
)
def test_the_cpu_path_is_told(op, shape, words, known_peaks, capsys):
    told = explained(op, "--shape", shape, capsys=capsys)
    assert told["backend"].startswith("cpu, the fastest")
    assert words in told["path"] and _C.isa() in told["path"]
    assert "measured" not in told


def test_the_floor_is_the_larger_of_operations_and_bytes(known_peaks, capsys):
    wide = explained("clip_loss", "--shape", "1000,500", capsys=capsys)  # 3 GFLOP at 1 TFLOP/s, 8 MB at 10 GB/s
    assert wide["floor"].startswith("3 ms, bound by operations: 1 TFLOP/s (torch.mm), copy 10 GB/s")
    narrow = explained("clip_loss", "--shape", "10,500", capsys=capsys)
    assert narrow["floor"].startswith("0.008 ms, bound by bytes")


def test_a_loss_of_rows_alone_has_no_tiles_and_keeps_nothing(known_peaks, capsys):
    told = explained("byol_loss", "--shape", "64,128", capsys=capsys)
    assert told["path"].startswith("both rows are read once") and "workspace" not in told
    assert "unit rows" in told["bytes"]


def test_more_than_the_floor_is_said_to_come_from_the_cache(monkeypatch, capsys):
    monkeypatch.setattr(timing, "matmul_peak", lambda *_: 1e12)
    monkeypatch.setattr(timing, "copy_bandwidth", lambda *_: 1e3)
    told = explained("byol_loss", "--shape", "64,32", "--measure", capsys=capsys)
    assert "bound by bytes" in told["floor"] and "fit the cache" in told["measured"]


def test_measure_adds_time_share_of_the_floor_and_memory(capsys):
    told = explained("nt_xent", "--shape", "128,32", "--dtype", "bf16", "--measure", capsys=capsys)
    assert "ms forward and backward" in told["measured"] and "% of the floor" in told["measured"]
    assert "above the inputs" in told["memory"]


def test_operations_are_those_of_the_algorithm(known_peaks, capsys):
    told = explained("clip_loss", "--shape", "1000,500", "--backend", "reference", capsys=capsys)
    assert told["operations"] == "1 GFLOP forward, 2 GFLOP backward where nothing is repeated"
    assert told["backend"] == "reference, because --backend asks for it" and "dense" in told["path"]


def test_an_update_has_no_backward(known_peaks, capsys):
    told = explained("ema_update", "--shape", "161,25557032", "--dtype", "bf16", capsys=capsys)
    assert "(ResNet-50), float32 targets, bfloat16 sources on cpu" in told["op"]
    assert told["backend"].startswith("cpu, the fastest") and "threads" in told["path"]
    assert told["operations"] == "76.7 MFLOP and no backward"
    assert told["bytes"].startswith("244 MiB at least; targets and sources are read")
    assert told["floor"].startswith("25.6 ms, bound by bytes")
    told = explained("ema_update", "--shape", "10,5000", "--measure", capsys=capsys)
    assert "(equal tensors)" in told["op"] and "ms an update, median of" in told["measured"]


def test_the_workspace_is_told(known_peaks, monkeypatch, capsys):
    assert "keeps its exponentials" in explained("nt_xent", "--shape", "1024,128", capsys=capsys)["workspace"]
    large = explained("nt_xent", "--shape", "16384,128", capsys=capsys)["workspace"]
    assert "GiB exceed SSLKERNELS_WORKSPACE_MIB" in large
    assert "workspace" not in explained("info_nce", "--shape", "32,128,16", capsys=capsys)


def test_a_forced_environment_is_named(known_peaks, monkeypatch, capsys):
    monkeypatch.setenv("SSLKERNELS_BACKEND", "reference")
    assert "SSLKERNELS_BACKEND" in explained("nt_xent", "--shape", "8,8", capsys=capsys)["backend"]


def test_a_gpu_need_not_be_here(monkeypatch, capsys):
    pytest.importorskip("triton", reason="the Triton backend is not installed")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    wide = explained("clip_loss", "--shape", "32768,768", "--dtype", "bf16", "--device", "cuda", capsys=capsys)
    assert wide["backend"].startswith("triton") and "tiles" in wide["path"] and "assumed" in wide["path"]
    assert "unknown" in wide["floor"]
    narrow = explained("nt_xent", "--shape", "4096,128", "--dtype", "bf16", "--device", "cuda", capsys=capsys)
    assert "fused" in narrow["path"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("barlow", "--shape", "8,8"), "OP is 'barlow'"),
        (("nt_xent", "--shape", "8"), "--shape is '8'"),
        (("nt_xent", "--shape", "8,0"), "--shape is '8,0'"),
        (("info_nce", "--shape", "8,8"), "N,M,D"),
        (("nt_xent", "--shape", "8,8", "--dtype", "int8"), "--dtype is 'int8'"),
        (("nt_xent", "--shape", "8,8", "--device", "tpu"), "--device is 'tpu'"),
        (("nt_xent", "--shape", "8,8", "--backend", "cuda"), "this op has no kernels for it"),
        (("nt_xent", "--shape", "8,8", "--backend", "numpy"), "accepted are"),
        (("gather_tokens", "--shape", "8,8"), "gather_tokens takes 4 positive whole numbers B,L,K,C"),
        (("nt_xent", "--shape", "8,8", "--backend", "triton"), "cannot run"),
        (("gather_tokens", "--shape", "2,4,9,8", "--measure"), "K=9 of L=4"),
        (("ema_update", "--shape", "10,3", "--measure"), "T=10 of P=3"),
    ],
)
def test_a_mistake_is_a_sentence(arguments, words):
    parser = argparse.ArgumentParser()
    explain.add_arguments(parser)
    with pytest.raises(ValueError) as error:
        explain.run(parser.parse_args(arguments))
    assert words in str(error.value)


def test_measuring_an_absent_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--measure came with --device cuda"):
        list(explain.explain(Workload("nt_xent", (8, 8)), torch.float32, torch.device("cuda"), None, True))


def test_from_the_command_line(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "sslkernels", "explain", *arguments]
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    done = run("nt_xent", "--shape", "64,32", "--backend", "reference")
    assert done.returncode == 0 and "backend      reference" in done.stdout, done.stderr
    wrong = run("nt_xent", "--shape", "64")
    assert wrong.returncode == 2 and wrong.stdout == "" and len(wrong.stderr.strip().splitlines()) == 1
    assert "example" in run("--help").stdout
