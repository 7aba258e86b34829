# SPDX-License-Identifier: Apache-2.0
"""The Python snippets of the pages that people copy from run as they stand, in one process per page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/training.md")


@pytest.mark.parametrize("page", PAGES)
def test_snippets_run(page, run_python):
    snippets = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    assert snippets
    done = run_python("\n".join(snippets))
    assert done.returncode == 0, done.stderr[-3000:]
