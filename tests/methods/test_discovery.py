# SPDX-License-Identifier: Apache-2.0
"""A method is one file in sslkernels/methods and a recipe one row in sslkernels/recipes; nothing else lists them."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import sslkernels
from sslkernels import data, methods, recipes, terms
from sslkernels.data import Dataset
from sslkernels.listing import rows
from sslkernels.methods import METHODS
from sslkernels.recipes import MODALITIES, RECIPES, find
from sslkernels.settings import arguments_of

NO_METHODS = {"__init__", "auxiliary", "hidden_patches", "method", "prototyped"}
FILES = {path.stem for path in Path(methods.__file__).parent.glob("*.py")} - NO_METHODS
# Numbers in the list of papers that are served so far.
SERVED = {
    2, 5, 6, 8, 12, 13, 18, 19, 23, 26, 28, 30, 31, 34, 35, 38, 41, 44, 53, 56, 62, 63, 64, 67, 72, 73, 76, 78, 83, 85,
    89, 97, 100, 102, 105, 106, 107, 108, 110, 111, 112, 113, 114, 115, 116, 118, 119, 125, 126,
}  # fmt: skip


def test_every_file_can_be_imported() -> None:
    assert methods.BROKEN == recipes.BROKEN == data.readers.BROKEN == {}


def test_every_file_is_a_method_and_its_class_is_public() -> None:
    assert methods.available() == sorted(FILES)
    for name, kind in METHODS.items():
        assert kind.__module__ == f"sslkernels.methods.{name}"
        assert kind.__name__ in methods.__all__ and getattr(methods, kind.__name__) is kind


@pytest.mark.parametrize("name", recipes.available())
def test_a_method_says_what_a_run_needs(name: str) -> None:
    recipe = find(name)
    assert re.fullmatch(r"\d{4}\.\d{4,5}", recipe.arxiv) and re.search(r"\d{4}$", recipe.paper)
    assert "reference" in recipe.method.family.backends
    assert recipe.method.views in (None, 1, 2, 3, 4) and recipe.data.partition("?")[0].partition(":")[0] in data.READERS
    assert set(recipe.parts) <= set(arguments_of(recipe.method))
    assert set(recipe.options) <= set(recipe.settings)


def test_a_recipe_with_a_methods_name_is_made_of_it_and_every_name_is_listed_once() -> None:
    assert all(RECIPES[name].method is METHODS[name] for name in set(METHODS) & set(RECIPES))
    names = [row.name for row in rows()]
    assert sorted(names) == recipes.available() and {"simclr", "sie", "byol_a"} <= set(names)


def test_every_paper_is_served_by_one_recipe() -> None:
    numbers = [number for recipe in recipes.all_recipes() for number in recipe.seeds]
    assert sorted(numbers) == sorted(SERVED)


def test_what_follows_an_abstract_says_so() -> None:
    named = {recipe.name for recipe in recipes.all_recipes() if recipe.after_abstract}
    assert {"vi_simsiam", "pose_vicreg", "action_simclr", "fine_grained"} <= named
    for kind in (METHODS["vi_simsiam"], terms.Trajectory, data.LowVariancePerturb):
        assert "after the abstract" in inspect.getdoc(kind)


@pytest.mark.parametrize("name", MODALITIES)
def test_a_modality_is_named_as_its_file_and_reads_its_own_default_data(name: str) -> None:
    modality = MODALITIES[name]
    assert modality.name == name == data.check_reader(modality.data)
    assert set(modality.encoders) <= {"features", "tokens"}


def test_a_setting_means_one_thing_in_a_recipe() -> None:
    for name in recipes.available():
        recipe = find(name)
        taken = set(arguments_of(recipe.method))
        assert not taken & set(arguments_of(recipe.backbone.build)) - {"dataset"}, name


def test_a_method_that_needs_tokens_is_refused_where_there_are_none() -> None:
    images = MODALITIES["images"]
    without = recipes.Modality("sounds", "digits", {"features": images.encoders["features"]}, images.views, images.raw)
    with pytest.raises(ValueError, match="train: mae needs a backbone of tokens, and sounds have none; pass other"):
        _ = recipes.Recipe.plain("mae", METHODS["mae"], without).backbone


def test_a_patch_fits_the_images() -> None:
    fit = MODALITIES["images"].encoders["tokens"].fit
    for size, patch in (((8, 8), 2), ((32, 32), 4), ((12, 20), 4), ((224, 224), 28), ((7, 7), 7)):
        images = torch.zeros(1, 1, *size)
        assert fit(Dataset("zeros", "images", images, None, images, None)) == {"patch_size": patch}


MINE = """
from sslkernels.methods.method import Method
from sslkernels.models import ProjectionHead
from sslkernels.ops.similarity import SIMILARITY

class Mine(Method):
    paper = "Nobody 2026"
    arxiv = "2611.00001"
    family = SIMILARITY
    small = {"epochs": 1, "batch_size": 16, "lr": 1e-3, "projection_dim": 8}
    paper_options = {"epochs": 100, "batch_size": 256, "lr": 1e-3}

    def __init__(self, backbone, *, feature_dim, projection_dim: int, center: float = 0.5, backend=None, group=None):
        super().__init__(backbone, backend=backend, group=group)
        if not 0 <= center <= 1:
            raise ValueError(f"Mine: center is {center}; pass a number from 0 to 1.")
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
options = {{"data": "npz:small.npz", "center": "0.25"}}
prepared = prepare(TrainConfig.from_options("mine", options), options)
loss = prepared.learner(prepared.views(prepared.dataset.inputs))["loss"]
print(prepared.learner.center, prepared.config.saved()["center"], bool(loss > 0))
assert main(["methods", "mine"]) == 0
assert main(["train", "mine", "--out", "run", "--set", "center=2"]) == 2
assert main(["train", "simclr", "--out", "run", "--set", "center=0.5"]) == 2
assert main(["train", "torn", "--out", "run"]) == 2
"""


@pytest.mark.slow  # a copy of the package is imported anew
def test_a_new_file_is_all_that_a_method_takes(run_python: Callable, tmp_path: Path) -> None:
    """A file that cannot be imported takes only itself away."""
    pytest.importorskip("lightning")
    source = Path(sslkernels.__file__).parent
    shutil.copytree(source, tmp_path / "copy" / "sslkernels", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "copy" / "sslkernels" / "methods" / "mine.py").write_text(MINE)
    (tmp_path / "copy" / "sslkernels" / "methods" / "torn.py").write_text("def half(:\n")
    done = run_python(USED.format(folder=str(tmp_path / "copy")))
    assert done.returncode == 0, done.stderr
    printed = " ".join(done.stdout.split())
    assert printed.startswith("0.25 0.25 True mine: Nobody 2026, arXiv 2611.00001") and "center" in printed
    wrong, foreign, torn = done.stderr.splitlines()[-3:]
    assert wrong == "sslkernels: Mine: center is 2.0; pass a number from 0 to 1."
    assert foreign.startswith("sslkernels: train: simclr has no option center; its own are projection_dim, temperature")
    assert torn.startswith("sslkernels: train: methods/torn.py cannot be imported (SyntaxError: ")
