# SPDX-License-Identifier: Apache-2.0
"""Pictures and pages show the names of a user's folders as they are, whatever characters they hold."""

from __future__ import annotations

import warnings

import pytest
import torch

pytest.importorskip("lightning")

from sslkernels import html  # noqa: E402
from sslkernels.training.pictures import embedding  # noqa: E402

NAMES = ("$x^$", r"\frac{", "a$b$", "_hidden", "<b>", "\x1b]0;x\x07", "new\nline", "ü" * 300, "\udcff", "")


def test_any_name_of_a_class_can_be_drawn():
    labels = torch.arange(len(NAMES)).repeat(2)
    features = torch.randn(len(labels), 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert embedding(features, labels, NAMES).startswith(b"\x89PNG")


def test_any_name_can_stand_in_a_page():
    text = html.page(" ".join(NAMES), [html.section(name, name, html.image(b"", name)) for name in NAMES])
    assert text.encode().count(b"<b>") == 0 and r"\udcff" in text
