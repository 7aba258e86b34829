# SPDX-License-Identifier: Apache-2.0
"""docs/evaluation.md names every measure, and its table says what the committed runs found."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from sslkernels.evaluation import MEASURES

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "measures.py"

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the repository's benchmarks are not here")


@pytest.fixture(scope="module")
def measures() -> ModuleType:
    pytest.importorskip("scipy")
    spec = importlib.util.spec_from_file_location("measures", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_the_record_says(measures):
    record = json.loads(measures.RECORD.read_text())
    assert record["correlations"] == measures.correlations(record["runs"])
    page = measures.PAGE.read_text()
    assert page == measures.written(page, record)


def test_the_page_names_every_measure_and_its_better_side(measures):
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (higher|lower|near 1) \|", measures.PAGE.read_text(), re.MULTILINE)
    said = {name: better for names, better in rows for name in re.findall(r"`(\w+)`", names)}
    assert said == {name: "near 1" if each.better == "neither" else each.better for name, each in MEASURES.items()}


def test_a_measure_that_ranks_as_it_says_has_a_correlation_of_one(measures):
    values = {"rank_me": 1.0, "uniformity": -1.0, "alpha_req": 5.0, **dict.fromkeys(measures.PROBES, 0.1)}
    runs = [
        {"values": {**values, "rank_me": rank, "uniformity": -rank, "alpha_req": 1 - 1 / rank, **probes}}
        for rank, probes in ((n, dict.fromkeys(measures.PROBES, n / 10)) for n in (1, 2, 3, 4))
    ]
    found = measures.correlations(runs)
    assert set(found) == {"rank_me", "uniformity", "alpha_req"}
    assert found["rank_me"]["knn"] == found["uniformity"]["knn"] == 1 and found["alpha_req"]["knn"] == 1
