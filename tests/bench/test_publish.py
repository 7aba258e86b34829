# SPDX-License-Identifier: Apache-2.0
"""The README's numbers and the pictures are those of the committed records."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sslkernels.bench import results

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


def test_the_readme_says_what_the_records_say(publish):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert publish.rewritten(readme, publish.load()) == readme, "run `python benchmarks/publish.py`"
    assert {"similarity", "correlation", "tokens", "ema"} <= set(re.findall(r"<!-- table: (\w+) -->", readme))
    assert readme.count("<!-- losses -->") == 1


def test_a_changed_record_changes_the_readme(publish, tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "benchmarks" / "results").glob("*.jsonl"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(publish, "FOLDER", tmp_path)
    assert publish.rewritten(readme, publish.load()) == readme
    path = tmp_path / "ema.jsonl"
    path.write_text(re.sub(r'"median": [\d.e-]+', '"median": 0.123', path.read_text()))
    assert "| 123 ms | 1.00 |" in publish.rewritten(readme, publish.load())


def test_committed_pictures_are_of_the_committed_records(publish):
    image = pytest.importorskip("PIL.Image")
    if not any(publish.FOLDER.glob("*.png")):
        pytest.skip("a source distribution leaves the pictures out")
    found = publish.load()
    for name, records in found.families.items():
        for picture in (f"{name}.png", f"{name}-sizes.png"):
            with image.open(publish.FOLDER / picture) as opened:
                assert opened.text["Records"] == results.digest(records), (
                    f"{picture}: run `python benchmarks/publish.py`"
                )
