# SPDX-License-Identifier: Apache-2.0
"""docs/views.md shows every view with a small picture, and says what the script says."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import sslkernels.data.views

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "draw_views.py"

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the repository's benchmarks are not here")


@pytest.fixture(scope="module")
def draw_views() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_views", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["draw_views"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_page_is_that_of_the_script(draw_views):
    assert draw_views.PAGE.read_text() == draw_views.page(), "python benchmarks/draw_views.py --write"


def test_the_page_names_every_view(draw_views):
    assert set(sslkernels.data.views.__all__) <= set(re.findall(r"\w+", draw_views.page()))


def test_every_view_has_a_small_picture_and_every_picture_a_view(draw_views):
    shown = re.findall(r"\]\(views/(\S+)\)", draw_views.page())
    found = {path.name: path.stat().st_size for path in draw_views.PICTURES.iterdir()}
    assert sorted(shown) == sorted(found), "python benchmarks/draw_views.py"
    assert max(found.values()) < 40_000 and sum(found.values()) < 500_000


def test_a_picture_is_drawn_again_as_it_is(draw_views):
    pytest.importorskip("matplotlib")
    pytest.importorskip("PIL")
    from sslkernels.data import load

    kind = draw_views.WRITING
    dataset = load(kind.data)
    (shown,) = draw_views.VIEWS[kind]
    first = draw_views.picture(kind, shown, dataset)
    assert first == draw_views.picture(kind, shown, dataset) and first.startswith(b"\x89PNG")
