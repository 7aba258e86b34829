# SPDX-License-Identifier: Apache-2.0
"""Other libraries in `sslkernels bench`: textbooks stand in for those that need a GPU, and are held to the truth."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from sslkernels.bench import peers, runner, workloads
from sslkernels.bench.cases import CASES
from sslkernels.bench.providers import PROVIDERS

CPU = torch.device("cpu")


@pytest.fixture
def known_peaks(monkeypatch):
    monkeypatch.setattr(runner, "_peaks", lambda *_: (1e9, {dtype: (1e9, "torch.mm") for dtype in workloads.DTYPES}))


@pytest.fixture
def clip_peers(monkeypatch):
    """Let both run on the CPU, with textbook losses in the place of their kernels, which need CUDA."""
    memeff, siglip = types.ModuleType("memeff"), types.ModuleType("siglip_kernel")

    class Symmetric(torch.nn.Module):
        def __init__(self, temperature, normalized_inputs, stable):
            super().__init__()
            assert normalized_inputs and not stable
            self.temperature = temperature

        def forward(self, image, text):
            logits = image @ text.T / self.temperature
            there, back = logits.log_softmax(1).diagonal(), logits.log_softmax(0).diagonal()
            return -(there + back).mean() / 2

    def sigmoid(image, text, log_temperature, bias):
        logits = image @ text.T * log_temperature.exp() + bias
        signs = 2 * torch.eye(len(image)) - 1
        return -torch.nn.functional.logsigmoid(signs * logits).sum() / len(image)

    memeff.MemoryEfficientCLIPLoss, siglip.fused_siglip_loss = Symmetric, sigmoid
    monkeypatch.setitem(sys.modules, "memeff", memeff)
    monkeypatch.setitem(sys.modules, "siglip_kernel", siglip)
    monkeypatch.setattr(peers.Library, "why_not", lambda *_: None)
    return memeff, siglip


def test_peers_are_held_against_what_they_compute(clip_peers, known_peaks):
    clip = workloads.Workload("clip_loss", (48, 16))
    chosen = [PROVIDERS[name] for name in ("cpu", "memeff", "siglip")]
    ours, memeff, siglip = runner.run([clip], ["float32"], chosen, CPU, 0.01, lambda _: None)
    assert [record["status"] for record in (ours, memeff, siglip)] == ["ok"] * 3, (memeff["why"], siglip["why"])
    held = {"loss", "image", "a row of image", "text", "a row of text"}
    assert set(ours["gate"]["error"]) == held | {"logit_scale"} and ours["note"] is None
    assert set(memeff["gate"]["error"]) == set(siglip["gate"]["error"]) == held
    assert "no gradient for the scale" in memeff["note"] and "another objective" in siglip["note"]


def test_a_wrong_peer_is_not_timed(clip_peers, known_peaks):
    right = clip_peers[1].fused_siglip_loss
    clip_peers[1].fused_siglip_loss = lambda *given: 1.001 * right(*given)
    clip = workloads.Workload("clip_loss", (48, 16))
    (siglip,) = runner.run([clip], ["float32"], [PROVIDERS["siglip"]], CPU, 0.01, lambda _: None)
    assert siglip["status"] == "failed" and "seconds" not in siglip


def test_liger_is_held_against_the_divergence_that_it_computes(monkeypatch, known_peaks):
    class Divergence(torch.nn.Module):
        def __init__(self, jsd_beta, temperature, accum_dtype):
            super().__init__()
            assert jsd_beta == 0 and accum_dtype == torch.float32
            self.temperature = temperature

        def forward(self, student, weight, teacher, teacher_weight, shift_labels):
            rows, followed = student @ weight.T / self.temperature, teacher @ teacher_weight.T / self.temperature
            return torch.nn.functional.kl_div(rows.log_softmax(1), followed.softmax(1), reduction="batchmean")

    package, transformers = types.ModuleType("liger_kernel"), types.ModuleType("liger_kernel.transformers")
    transformers.LigerFusedLinearJSD = Divergence
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", transformers)
    monkeypatch.setattr(peers.Library, "why_not", lambda *_: None)
    crops = workloads.Workload("prototype_cross_entropy", (6, 30, 48, 16))
    (liger,) = runner.run([crops], ["float32"], [PROVIDERS["liger"]], CPU, 0.01, lambda _: None)
    assert liger["status"] == "ok", liger["why"]
    assert set(liger["gate"]["error"]) == {"loss", "student", "a row of student", "weight", "a row of weight"}


def test_the_potential_of_transport_is_the_bias(monkeypatch, known_peaks):
    def alternating(x, y, a, b, *, eps, n_iters, cost_scale, allow_tf32):
        assert not allow_tf32
        dtype = torch.promote_types(x.dtype, torch.float32)
        x, y, a, b = (given.to(dtype) for given in (x, y, a, b))
        f, g, cost = torch.zeros_like(x[:, 0]), torch.zeros_like(y[:, 0]), cost_scale * torch.cdist(x, y) ** 2
        for _ in range(n_iters):
            f = -eps * torch.logsumexp((g - cost) / eps + b.log(), 1)
            g = -eps * torch.logsumexp((f[:, None] - cost) / eps + a.log()[:, None], 0)
        return f, g

    package, kernels = types.ModuleType("flash_sinkhorn"), types.ModuleType("flash_sinkhorn.kernels")
    kernels.sinkhorn_flashstyle_alternating = alternating
    monkeypatch.setitem(sys.modules, "flash_sinkhorn", package)
    monkeypatch.setitem(sys.modules, "flash_sinkhorn.kernels", kernels)
    monkeypatch.setattr(peers.Library, "why_not", lambda *_: None)

    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in (16, 32))
    inputs = {"teacher": torch.nn.functional.normalize(rows), "weight": weight / 8}  # prototypes of any length
    case = CASES["sinkhorn_bias"]
    found = PROVIDERS["flash_sinkhorn"].step(workloads.Workload("sinkhorn_bias", (16, 32, 8)), inputs)()
    torch.testing.assert_close(found, case.exact(inputs, 64), rtol=0, atol=1e-12)

    few = workloads.Workload("sinkhorn_bias", (24, 48, 16))
    records = runner.run([few], ["float32", "bfloat16"], [PROVIDERS["flash_sinkhorn"]], CPU, 0.01, lambda _: None)
    assert [record["status"] for record in records] == ["ok"] * 2, [record["why"] for record in records]
    assert "half a step more" in records[0]["note"]


@pytest.mark.parametrize("name", ["memeff", "siglip", "liger", "flash_sinkhorn"])
def test_peers_of_a_gpu_are_skipped_with_a_sentence(name):
    why = PROVIDERS[name].why_not(workloads.Workload("clip_loss", (48, 16)), CPU, torch.float32)
    assert why.endswith("runs on CUDA alone.")
