# SPDX-License-Identifier: Apache-2.0
"""`bench train` at the papers' sizes, and beside lightly's parts: the same losses from the same weights."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("lightning")

from sslkernels.bench import lightly, train  # noqa: E402
from sslkernels.bench.records import fault  # noqa: E402
from sslkernels.data import Dataset  # noqa: E402
from sslkernels.methods import METHODS  # noqa: E402
from sslkernels.recipes import find  # noqa: E402
from sslkernels.training import measure  # noqa: E402


@pytest.fixture
def quick(monkeypatch):
    for name in ("REPEATS", "LOSS_REPEATS", "WARMUPS"):
        monkeypatch.setattr(measure, name, 1)
    monkeypatch.setattr(measure, "peak_memory", lambda *_: 1)


def lightly_is_here() -> bool:
    try:
        lightly.parts()
    except ValueError:
        return False
    return True


def test_sizes_of_the_papers_are_settings_of_their_methods():
    # Pretext tasks and relations have no loss of a size, classes and clusters are those of the data, and SIE and
    # ColloSSL, transitive triplets and UVC need data that says what was done, has several sensors or moves.
    of_the_data = {"diet", "margin_classifier", "pal", "proto_clr", "collossl", "sie", "deep_cluster_v2"}
    of_the_data |= {"transitive", "uvc", "ca_dino", "dlg_lc", "featex", "slice_cluster", "ss_terrain"}
    assert set(train.PAPER) == set(METHODS) - {"pretext", "relational_reasoning"} - of_the_data
    for name, options in train.PAPER.items():
        assert set(options) <= {*find(name).settings, "batch_size"}


def test_the_data_fills_a_batch_of_the_paper_s_size():
    prepared = train.prepare("simclr", 1, {}, "paper")
    assert prepared.config.batch_size == 4096 and len(prepared.dataset.inputs) >= 4096
    masked = train.prepare("mae", 1, {"batch_size": 4}, "paper")
    assert masked.learner.backbone.length == 196 and masked.learner.backbone.width == 384
    series = Dataset("x", "series", torch.rand(3, 2, 16), None, None, None)
    assert torch.equal(train._enlarged(series, {"batch_size": 4}).inputs, series.inputs[[0, 1, 2, 0]])
    with pytest.raises(ValueError, match="--preset is paper and --data holds series; pass images for this method."):
        train._enlarged(series, {"batch_size": 4, "patch_size": 16})
    with pytest.raises(ValueError, match="--preset is paper and METHOD direct_pred; accepted are simclr"):
        train.prepare("direct_pred", 1, {}, "paper")
    with pytest.raises(ValueError, match="--preset is 'large'; accepted are 'small', 'paper'."):
        train.prepare("simclr", 1, {}, "large")


@pytest.mark.skipif(not lightly_is_here(), reason="lightly is not installed: pip install --no-deps lightly==1.6.0")
@pytest.mark.parametrize("name", lightly.BUILDERS)
def test_lightly_s_form_of_a_method_has_our_losses(name, quick):
    options = {"batch_size": 32}
    prepared = train.prepare(name, 2, options)
    records = train.run(prepared, 2, lambda line: None, against="lightly")
    other, ours, control = train.by_role(records)
    assert other["backend"] == "lightly" and ours["agrees"], train.verdict(records)
    assert "agrees with lightly over 2 steps" in train.verdict(records)
    shared = {"date": "2026-01-01T00:00:00Z", "commit": None, "versions": {"torch": "2"}, "threads": 1,
              "device": {"type": "cpu", "name": "x", "isa": "x"}}  # fmt: skip
    assert all(fault({**shared, **record}) is None for record in (other, ours))


def test_a_method_without_parts_in_lightly_is_one_sentence(monkeypatch):
    monkeypatch.setattr(lightly, "parts", lambda: (None, None, None))
    with pytest.raises(
        ValueError, match="--against is lightly and METHOD mae: lightly lacks this method's parts"
    ) as caught:
        lightly.peer_of("mae", torch.nn.Linear(1, 1))
    assert "simclr, moco_v2, byol" in str(caught.value)


def test_a_missing_lightly_is_one_sentence_with_the_command(monkeypatch):
    monkeypatch.setitem(lightly.sys.modules, "lightly", None)
    monkeypatch.setitem(lightly.sys.modules, "lightly.loss", None)
    with pytest.raises(ValueError, match="which cannot be imported .*; pip install --no-deps lightly==1.6.0."):
        lightly.parts()
