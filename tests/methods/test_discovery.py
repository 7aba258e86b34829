# SPDX-License-Identifier: Apache-2.0
"""A method is one file in sslkernels/methods, which holds all that `sslkernels train` needs to know of it."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import sslkernels
from sslkernels import methods
from sslkernels.methods import METHODS, all_options, available
from sslkernels.methods.method import Masked

# Entries of every preset, whatever the method.
OF_EVERY_RUN = {"epochs", "batch_size", "lr"}
FILES = {path.stem for path in Path(methods.__file__).parent.glob("*.py")} - {"__init__", "method", "options"}


def test_every_file_is_a_method_and_its_class_is_public() -> None:
    assert available() == sorted(FILES)
    for name, kind in METHODS.items():
        assert kind.__module__ == f"sslkernels.methods.{name}"
        assert kind.__name__ in methods.__all__ and getattr(methods, kind.__name__) is kind


@pytest.mark.parametrize("name", METHODS)
def test_a_preset_holds_what_a_run_needs_and_options_that_are_arguments(name: str) -> None:
    kind = METHODS[name]
    own = set(kind.own_options())
    assert set(kind.preset) == OF_EVERY_RUN | own
    assert own - {"patch_size"} <= set(inspect.signature(kind).parameters)
    assert ("patch_size" in own) == issubclass(kind, Masked)  # the backbone takes it
    assert set(kind.fitting((32, 32))) <= own
    assert re.fullmatch(r"\d{4}\.\d{4,5}", kind.arxiv) and "reference" in kind.family.backends


def test_an_option_means_the_same_in_every_method() -> None:
    for name in all_options():
        assert len({kind.own_options()[name] for kind in METHODS.values() if name in kind.own_options()}) == 1


def test_the_words_of_an_option_name_the_methods_that_have_it() -> None:
    words = {name: option.words for name, option in all_options().items()}
    assert words["temperature"] == "of the loss in simclr, moco_v2, moco_v3 and moby"
    assert words["mask_ratio"] == "share of the patches that mae hides"


MINE = """
from sslkernels.methods.method import Method
from sslkernels.methods.options import Option
from sslkernels.models import ProjectionHead
from sslkernels.ops.similarity import SIMILARITY

class Mine(Method):
    arxiv = "2611.00001"
    family = SIMILARITY
    preset = {"epochs": 1, "batch_size": 16, "lr": 1e-3, "projection_dim": 8, "center": 0.5}
    options = {"center": Option("share of the centre in {methods}", least=0, most=1)}

    def __init__(self, backbone, *, feature_dim, projection_dim, center, backend=None, group=None):
        super().__init__(backbone, backend=backend, group=group)
        self.feature_dim, self.center = feature_dim, center
        self.projector = ProjectionHead(feature_dim, projection_dim, projection_dim)

    def forward(self, views):
        z0, z1 = (self.projector(self.features(view)) for view in self.two_views(views))
        return {"loss": self.loss(z0, z1), "embeddings": (z0, z1)}

    def loss(self, z0, z1):
        return (z0 - self.center * z1).square().mean()
"""
USED = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "Redirect" not in type(finder).__name__]
sys.path.insert(0, {folder!r})
import numpy
from sslkernels.cli import main
from sslkernels.training.config import TrainConfig
from sslkernels.training.run import prepare
numpy.savez("small.npz", images=numpy.random.default_rng(0).random((40, 8, 8)).astype("f"))
options = {{"data": "npz:small.npz", "center": 0.25}}
prepared = prepare(TrainConfig.from_options("mine", options), options)
loss = prepared.learner(prepared.views(prepared.dataset.train_images))["loss"]
print(prepared.learner.center, prepared.config.saved()["center"], bool(loss > 0))
assert main(["train", "mine", "--out", "run", "--center", "2"]) == 2
assert main(["train", "simclr", "--out", "run", "--center", "0.5"]) == 2
main(["train", "--help"])
"""


def test_a_new_file_is_all_that_a_method_takes(run_python: Callable, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    source = Path(sslkernels.__file__).parent
    shutil.copytree(source, tmp_path / "copy" / "sslkernels", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "copy" / "sslkernels" / "methods" / "mine.py").write_text(MINE)
    done = run_python(USED.format(folder=str(tmp_path / "copy")))
    assert done.returncode == 0, done.stderr
    printed = " ".join(done.stdout.split())
    assert (
        printed.startswith("0.25 0.25 True usage: sslkernels train")
        and "--center CENTER share of the centre in mine" in printed
    )
    wrong, foreign = done.stderr.splitlines()[-2:]
    assert wrong == "sslkernels: train: --center is 2.0; pass a number from 0 to 1."
    assert foreign.startswith("sslkernels: train: --center came and simclr has no such option; leave it out. Its own")
