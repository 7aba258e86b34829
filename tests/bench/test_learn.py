# SPDX-License-Identifier: Apache-2.0
"""docs/methods.md shows every method and recipe, and what the committed runs learned."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from sslkernels.recipes import available, find

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "learn.py"

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the repository's benchmarks are not here")


@pytest.fixture(scope="module")
def learn() -> ModuleType:
    spec = importlib.util.spec_from_file_location("learn", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_the_records_say(learn):
    assert learn.PAGE.read_text() == learn.page(json.loads(learn.RECORD.read_text()), learn.trainings())


@pytest.fixture
def record(learn) -> dict:
    accuracies = {probe + of: None for probe in learn.PROBES for of in ("", "_untrained", "_raw")}
    return {"data": "digits", "split": "sample", "epochs": 9, **accuracies}


def test_the_page_has_every_name_and_accuracies_beside_their_floors(learn, record):
    record |= {"few_shot": 0.901, "few_shot_untrained": 0.7, "few_shot_raw": 0.85}
    page = learn.page({"simclr@images": record}, [])
    assert all(f"| `{name}` |" in page for name in available())
    assert "| `simclr` | `digits` | sample | 9 | **90.1** / 70.0 / 85.0 | **–** / – / – | **–** / – / – |" in page
    assert "own figures" not in page and "training step" not in page


def test_the_page_shows_figures_of_a_method_s_own(learn, record):
    page = learn.page({"rotation@images": {**record, "scores": {"rotation_accuracy": 0.934}}}, [])
    assert "\n- `rotation`: rotation accuracy 0.93\n" in page


def test_the_page_marks_what_follows_an_abstract_and_says_what_each_needs(learn):
    page = learn.page({}, [])
    assert "[Nakamura et al. 2023](https://arxiv.org/abs/2203.11437) † |" in page
    assert "[Chen et al. 2020](https://arxiv.org/abs/2002.05709) |" in page
    assert (
        "| `geo_moco` | [Ayush et al. 2021](https://arxiv.org/abs/2011.09980) | similarity | place | images |" in page
    )
    assert (
        "| `rotation` | [Hendrycks et al. 2019](https://arxiv.org/abs/1906.12340) | tokens | label | images |" in page
    )


def test_every_paper_that_is_served_stands_there_once_in_the_order_of_its_number(learn):
    served = learn.page({}, []).partition("## Papers")[2]
    lines = re.findall(r"^\| (\d+) \| .*\(https://arxiv.org/abs/([\d.]+)\) \| (.*) \|$", served, re.MULTILINE)
    numbers = [int(number) for number, _, _ in lines]
    assert numbers == sorted(set(numbers)) and max(numbers) <= 126
    named = {name: (int(number), arxiv) for number, arxiv, names in lines for name in re.findall(r"`(\w+)`", names)}
    assert named["rq_byol"] == named["rq_simclr"] == named["rq_moco_v3"] == (53, "2212.08663")
    for name in available():
        assert set(find(name).seeds) <= {named.get(name, (0,))[0]}


def test_a_training_step_is_ours_beside_reference_and_the_latest_stands(learn):
    there = {"device": {"name": "a machine"}, "threads": 2, "versions": {"torch": "2"}, "agrees": True}
    usual = {**there, "kind": "train", "method": "byol", "data": "watch", "batch_size": 1024, "loss_share": 0.25}

    def measured(backend: str, speed: float, date: str = "2026-02", **more: object) -> dict:
        return {**usual, "backend": backend, "images_per_second": speed, "date": date, **more}

    control = {**usual, "backend": "control", "date": "2026-02"}
    records = [measured("reference", 2000.0), measured("cpu", 1500.0, loss_share=0.1, agrees=False), control]
    old = [measured("reference", 1.0, "2026-01"), measured("cpu", 9.0, "2026-01")]
    other = [measured("lightly", 7.0, against="lightly"), measured("cpu", 8.0, against="lightly")]
    page = learn.page({}, [*records, *old, *other])
    assert "| `byol` | `watch` | 1,024 | 2,000 | 1,500 | **0.75** | 25% | 10% | **no** |" in page
    assert page.count("| `byol` |") == 2 and "Measured on a machine, 2 threads, torch 2." in page
