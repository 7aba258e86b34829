# SPDX-License-Identifier: Apache-2.0
"""`sslkernels methods` says what each method or recipe needs, and which follow an abstract."""

from __future__ import annotations

import pytest

from sslkernels.cli import main
from sslkernels.listing import rows


def printed(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert main(["methods", *arguments]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_needs_are_those_of_method_term_and_labels():
    needs = {row.name: row.needs for row in rows()}
    assert needs["sie"] == needs["action_simclr"] == ("action",)
    assert needs["geo_moco"] == ("place",)
    assert needs["rotation"] == needs["jigen"] == ("label",)
    assert needs["simclr"] == needs["context"] == ()


def test_a_dagger_marks_what_follows_an_abstract(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = printed(capsys)
    assert "† follows the paper's abstract" in text
    assert "Nakamura et al. 2023 †" in text and "Chen et al. 2020 †" not in text


def test_one_recipe_is_told_with_its_term(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = printed(capsys, "pose_vicreg")
    assert "with the term Trajectory: Let the features" in text and "It follows the paper's abstract" in text
    assert "weight" in text
    plain = printed(capsys, "vicreg")
    assert "with the term" not in plain and "abstract" not in plain
