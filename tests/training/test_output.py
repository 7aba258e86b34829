# SPDX-License-Identifier: Apache-2.0
"""The work goes on if nobody reads the output, or if its encoding cannot hold a line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning")

from small_runs import COMMAND, OPTIONS, losses  # noqa: E402

from sslkernels.terminal import say  # noqa: E402


def test_a_reader_that_ends_takes_nothing_but_the_output(tmp_path):
    code = "from sslkernels.terminal import say\nfor number in range(2000): say('x' * 100)\nopen('done', 'w')"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 0 and (tmp_path / "done").exists()
    assert err == "sslkernels: the output cannot be written (Broken pipe); the work goes on.\n"


def test_a_line_that_the_output_cannot_encode_is_said_in_another_way(monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    say("npz:é\x1b[31m\udcff")
    assert output.buffer.getvalue() == b"npz:\\xe9\\x1b[31m\\udcff\n"


@pytest.mark.slow
def test_training_goes_on_when_the_reader_of_its_output_ends(copied):
    script = f"'{COMMAND}' train simclr {' '.join(OPTIONS)} --out other | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.count("\n") == 1
    assert done.stderr.count("\n") == 1 and "the output cannot be written (Broken pipe)" in done.stderr
    assert json.loads(Path("other/metrics.json").read_text())["loss"] == losses(copied)
