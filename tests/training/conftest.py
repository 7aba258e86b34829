# SPDX-License-Identifier: Apache-2.0
"""A whole small run, and copies of it to continue or to damage."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of a finished run, and the run itself in its folder ``run``."""
    from small_runs import OPTIONS, quick, small_data

    from sslkernels.cli import main

    folder = tmp_path_factory.mktemp("whole")
    with quick(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small_data(Path("small.npz"))
        assert main(["train", "simclr", *OPTIONS, "--out", "run"]) == 0
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of ``whole`` for this test. It is the working directory, and runs are quick."""
    from small_runs import quick

    shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    with quick():
        yield tmp_path / "copy"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Runs that are compared sum in one order, whatever a measured step would say."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
