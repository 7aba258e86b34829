# SPDX-License-Identifier: Apache-2.0
"""`sslkernels explain OP --device sm_90` compiles an op's kernels and models their times, without a GPU."""

from __future__ import annotations

import argparse
import importlib.util
import re

import pytest
import torch

from sslkernels import backends
from sslkernels.bench import explain
from sslkernels.bench.workloads import Workload
from sslkernels.device import compiled, launches, report
from sslkernels.device.targets import H200, TARGETS

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed.", allow_module_level=True)
BYOL = Workload("byol_loss", (4096, 256))
# A test that compiles keeps what it made away from the user's cache.
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))


def told(*arguments: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    parser = argparse.ArgumentParser()
    explain.add_arguments(parser)
    assert explain.run(parser.parse_args(arguments)) == 0
    return capsys.readouterr().out.splitlines()


def test_the_report_says_what_runs_what_it_uses_and_what_it_should_take(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told("byol_loss", "--shape", "4096,256", "--dtype", "bf16", "--device", "sm_90", capsys=capsys)
    assert max(map(len, lines)) <= 80
    assert lines[0] == "op           byol_loss, N=4096, D=256, bfloat16"
    text = "\n".join(lines)
    assert lines[1] == "device       sm_90: H200 SXM, 132 multiprocessors, which need not be here"
    assert "backend      triton, the fastest that can run on cuda" in lines
    use, time = (re.search(rf"^  cosine_loss .*{end}$", text, re.MULTILINE) for end in ("none", "launch|memory"))
    assert use is not None and time is not None
    runs, blocks, registers, spills, _, per_multiprocessor, _ = use[0].split()[1:]
    assert (runs, blocks, spills) == ("1", "512", "0")
    assert int(registers) <= 128 and int(per_multiprocessor) >= 4
    # Both sides are read in bfloat16; one number per row and one gradient in float32 are written: 8.4 MB.
    assert " 8.4 MB " in text and "modelled, not measured" in text
    assert "launches     3: 2 forward, 1 backward" in lines
    assert "host         21 us at 7 us for each launch, which is assumed" in lines
    assert "memory       6 MiB beside the inputs at most" in lines
    assert "not modelled" not in text


def test_sums_are_those_of_the_rows() -> None:
    made = report.make(BYOL, torch.bfloat16, H200, "triton")
    assert [row.name for row in made.rows] == ["cosine_loss", "sum (aten)", "times"]
    assert made.seconds == pytest.approx(sum(row.seconds for row in made.rows))
    # A copy of what is read and written takes 2 us, and three kernels have begun.
    moved = 2 * 4096 * 256 * 2 + 4096 * 4 + 4096 * 256 * 4
    assert made.rows[0].floor == pytest.approx(moved / H200.bandwidth)
    assert made.seconds == pytest.approx(made.floor + 3 * H200.gap, rel=0.01)
    assert made.host_seconds == 3 * H200.host


def test_a_kernel_whose_work_nobody_counted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sslkernels.ops.rows.triton_work.WORK", {})
    lines = list(report.lines(report.make(BYOL, torch.bfloat16, H200, "triton")))
    assert any(re.match("  cosine_loss +not modelled$", line) for line in lines)
    assert any(line.startswith("not modelled cosine_loss: ") for line in lines)


@pytest.mark.parametrize("name", TARGETS)
def test_the_choice_of_backend_and_path_is_the_targets(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = TARGETS[name]
    assert report.chosen(Workload("gather_tokens", (2, 4, 2, 8)), torch.float32, target, None) == "cuda"
    assert report.chosen(Workload("nt_xent", (8, 8)), torch.float32, target, None) == "triton"
    assert report.chosen(Workload("nt_xent", (8, 8)), torch.float64, target, None) == "reference"
    assert "assumed" not in report.path(Workload("nt_xent", (8, 8)), torch.bfloat16, target, "triton")


def test_kernels_in_cuda_without_image_and_compiler_are_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled._C, "CUDA_VERSION", 0)
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    compiled._image.cache_clear()
    compiled.shipped.cache_clear()
    try:
        lines = list(report.lines(report.make(Workload("gather_tokens", (2, 4, 2, 8)), torch.float32, H200, "cuda")))
    finally:
        compiled._image.cache_clear()
        compiled.shipped.cache_clear()
    assert "not compiled CUDA C++: this build has no image of it, and there is no nvcc" in lines


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "sm_90", "--measure"), "--measure came with --device sm_90, which is modelled"),
        (("--device", "sm_75"), "accepted are cpu, cuda, sm_80, sm_90 and sm_100."),
        (("--device", "sm_90", "--backend", "cpu"), "cannot run"),
    ],
)
def test_a_mistake_is_a_sentence(arguments: tuple[str, ...], words: str) -> None:
    parser = argparse.ArgumentParser()
    explain.add_arguments(parser)
    with pytest.raises(ValueError, match=re.escape(words)):
        explain.run(parser.parse_args(("nt_xent", "--shape", "64,32", *arguments)))


def test_what_cannot_compile_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    explain.add_arguments(parser)
    arguments = parser.parse_args(("nt_xent", "--shape", "64,32", "--device", "sm_90"))
    monkeypatch.setattr(backends, "_INTERPRETED", True)
    with pytest.raises(ValueError, match="compiles kernels, and TRITON_INTERPRET is set"):
        explain.run(arguments)
    monkeypatch.setattr(launches, "HAS_TRITON", False)
    with pytest.raises(ValueError, match="compiles kernels, and Triton is not installed"):
        explain.run(arguments)


def test_a_compiled_kernel_is_read_as_its_tools_print_it() -> None:
    """The smallest of the library's kernels, in which all is known: no product, no spill, 128 threads."""
    made = report.make(BYOL, torch.bfloat16, H200, "triton")
    used = made.rows[0].used
    assert used is not None and (used.product, used.spills, used.warps, used.copies_ahead) == ("none", 0, 4, 0)
    assert 16 <= used.registers <= 128 and used.code.once.instructions > 50
    assert any(loop.bytes for loop in used.code.loops)
