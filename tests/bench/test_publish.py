# SPDX-License-Identifier: Apache-2.0
"""RESULTS.md, the README and the pictures show the committed records."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from test_page import bench

from sslkernels.bench.cases import FAMILIES
from sslkernels.bench.records import Results, digest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "publish.py"

pytestmark = pytest.mark.skipif(
    not (SCRIPT.is_file() and (ROOT / "README.md").is_file() and any(ROOT.glob("benchmarks/results/*.jsonl"))),
    reason="the repository's benchmark records are not here",
)


@pytest.fixture(scope="module")
def publish() -> ModuleType:
    spec = importlib.util.spec_from_file_location("publish", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["publish"] = module
    spec.loader.exec_module(module)
    return module


def test_results_and_readme_say_what_the_records_say(publish):
    for path in (publish.RESULTS, publish.README):
        text = path.read_text(encoding="utf-8")
        assert publish.rewritten(text, publish.load()) == text, "run `python benchmarks/publish.py`"


def test_every_family_has_a_table_or_is_said_to_be_unmeasured(publish):
    text = publish.RESULTS.read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    for name, family in FAMILIES.items():
        measured = (publish.FOLDER / f"{name}.jsonl").is_file()
        assert ("|---|" in sections[family.title]) == measured, name
        assert ("Not measured yet: `sslkernels bench run " in sections[family.title]) != measured, name
    assert "of compile" in sections["Where we lose"] and "Targets missed" in sections["Where we lose"]


def test_a_text_without_a_place_for_numbers_stays_as_it_is(publish):
    assert publish.rewritten("# A page\n", publish.load()) == "# A page\n"


def test_the_summary_has_a_line_for_everyone_who_is_ahead(publish):
    text = publish.rewritten("<!-- where we lose -->\n<!-- end -->", publish.load())
    lines = text.splitlines()[1:-1]
    assert 1 <= len(lines) <= 5 and all(line.startswith("- ") and line.endswith(".") for line in lines)
    assert any(line.startswith("- compile is ahead in ") for line in lines) and "targets are missed" in lines[-1]


def test_the_sweep_is_a_table_and_its_losses_are_counted(publish):
    """Sizes that the tables of families have are counted there alone."""
    records = [
        bench("nt_xent", (size, 128), provider, milliseconds, preset=preset)
        for size, preset, eager in ((64, "small", 8.0), (64, "crossover", 1.0), (16, "crossover", 1.0))
        for provider, milliseconds in (("cpu", 2.0), ("eager", eager))
    ]
    found = Results({"similarity": records[:2]}, {"similarity": records[2:]})
    text = publish.rewritten("<!-- results -->\n<!-- end -->", found)
    swept = text[text.index("From which size") : text.index("## Where we lose")]
    assert "| NT-Xent 16 × 128 | fp32 | 2.00 ms | **0.50** |" in swept and "| NT-Xent 64 × 128 |" in swept
    lost = text[text.index("## Where we lose") :]
    assert "- NT-Xent 16×128: fp32 **0.50** of eager." in lost and "64×128: fp32 **" not in lost
    text = publish.rewritten("<!-- where we lose -->\n<!-- end -->", found)
    assert "- eager is ahead in 1 of 2 rows. The worst ratio is **0.50**, of NT-Xent 16×128 in fp32." in text


def test_a_changed_record_changes_the_results(publish, tmp_path, monkeypatch):
    text = publish.RESULTS.read_text(encoding="utf-8")
    for path in (ROOT / "benchmarks" / "results").glob("*.jsonl"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(publish, "FOLDER", tmp_path)
    assert publish.rewritten(text, publish.load()) == text
    path = tmp_path / "ema.jsonl"
    path.write_text(re.sub(r'"median": [\d.e-]+', '"median": 0.123', path.read_text()))
    assert "| 123 ms | 1.00 |" in publish.rewritten(text, publish.load())


def test_committed_pictures_are_of_the_committed_records(publish):
    image = pytest.importorskip("PIL.Image")
    if not any(publish.FOLDER.glob("*.png")):
        pytest.skip("a source distribution leaves the pictures out")
    found = publish.load()
    for name, records in found.families.items():
        for picture in (f"{name}.png", f"{name}-sizes.png"):
            with image.open(publish.FOLDER / picture) as opened:
                assert opened.text["Records"] == digest(records), f"{picture}: run `python benchmarks/publish.py`"
