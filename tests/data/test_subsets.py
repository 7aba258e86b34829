# SPDX-License-Identifier: Apache-2.0
"""A subset keeps all that is known of each sample that stays, in any modality, and reads no label."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sslkernels.data import Dataset, Graphs, load
from sslkernels.data.raw import RAW
from sslkernels.data.subsets import kept
from sslkernels.recipes import MODALITIES


def test_samples_stay_whole_and_in_order():
    whole, part = load("digits"), load("digits?subset=sas:0.5")
    assert abs(len(part.inputs) - len(whole.inputs) / 2) <= 5
    same = (part.inputs.flatten(1)[:, None] == whole.inputs.flatten(1)).all(2).float().argmax(1)
    assert (same.diff() > 0).all() and torch.equal(whole.labels[same], part.labels)
    assert torch.equal(part.test_inputs, whole.test_inputs) and part.classes == whole.classes
    again = load("digits?subset=sas:0.5")
    assert torch.equal(again.inputs, part.inputs)


def test_curated_samples_are_so_many_and_what_is_rare_comes_more_often():
    whole = load("digits")
    rare = (whole.labels == 0).nonzero()[:20, 0]
    rows = torch.cat([rare, (whole.labels > 4).nonzero()[:, 0]])
    uneven = replace(whole.only(rows), labels=None, classes=())
    chosen = kept("curated:100", uneven)
    assert len(chosen.unique()) == 100
    assert (chosen < 20).float().mean() > 1.5 * 20 / len(rows)


def test_every_modality_has_raw_features():
    assert {name: modality.raw for name, modality in MODALITIES.items()} == RAW


@pytest.mark.parametrize("text", ["sas:0.4", "curated:8"])
@pytest.mark.parametrize("modality", RAW)
def test_samples_of_every_modality_can_be_chosen(modality, text):
    inputs = {
        "images": torch.rand(20, 3, 4, 4),
        "series": torch.randn(20, 2, 9),
        "audio": torch.randn(20, 1, 5, 7),
        "tables": torch.randn(20, 6),
        "graphs": Graphs(torch.rand(40, 3), torch.tensor([[0, 1], [1, 0]]), torch.arange(20).repeat_interleave(2), 20),
        "interactions": torch.randint(9, (20, 6)),
        "text": torch.randint(9, (20, 6)),
    }[modality]
    dataset = Dataset("some", modality, inputs, None, inputs, None)
    part = dataset.only(kept(text, dataset))
    assert 6 <= len(part.inputs) <= 11 and part.labels is None


def test_partners_are_found_again():
    partners = torch.tensor([[1, 2], [0, 2], [0, 1], [4, 4], [3, 3]])
    known = {"place": torch.arange(5)}
    dataset = Dataset("some", "tables", torch.eye(5), None, torch.eye(5), None, extra=known, partners=partners)
    part = dataset.only(torch.tensor([0, 2, 3]))
    assert part.partners.tolist() == [[0, 1], [0, 1], [2, 2]]  # 1 and 4 are gone
    assert part.extra["place"].tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    "text", ["sas", "sas:0", "sas:1.5", "sas:nan", "curated:0", "curated:9999", "curated:0.5", "x:1"]
)
def test_a_wrong_subset_is_one_sentence(text):
    with pytest.raises(
        ValueError, match=f"^data digits: subset is '{text}' and there are 1438 training samples; pass "
    ):
        load(f"digits?subset={text}")


def test_a_setting_with_a_typing_error_finds_it():
    with pytest.raises(ValueError, match="did you mean subset"):
        load("digits?subse=sas:0.5")
