# SPDX-License-Identifier: Apache-2.0
"""Recipes learn what their papers say that they learn, from real data; floors are printed beside.

Bars are the worst of seeds 0 to 2 less 0.02.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.neural_network import MLPRegressor

pytest.importorskip("lightning")

from sslkernels.cli import main  # noqa: E402
from sslkernels.data import load  # noqa: E402
from sslkernels.methods import Method  # noqa: E402
from sslkernels.recipes import find  # noqa: E402
from sslkernels.training.config import TrainConfig  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.share(3)]


@pytest.fixture
def learned(tmp_path, capsys):
    """Train a recipe with seed 0, on one thread, and give its figures and the trained method in evaluation mode."""

    def run(name: str, *options: str) -> tuple[dict, Method, TrainConfig]:
        out = tmp_path / "run"
        code = main(["train", name, "--threads", "1", "--out", str(out), *options])
        said = capsys.readouterr().err
        if code == 2 and "is missing; " in said:
            pytest.skip(said.strip())
        assert code == 0, said
        metrics = json.loads((out / "metrics.json").read_text())
        for probe in ("few_shot", "linear", "knn"):
            found = [metrics[probe + of] for of in ("", "_untrained", "_raw")]
            print(f"{name}, {probe}: {found[0]:.3f}; untrained {found[1]:.3f}, raw {found[2]:.3f}")
        print(f"{name}, {metrics['scores']}")
        config = TrainConfig.from_saved(metrics["config"])
        method = find(name).build(load(config.data), config.method_options, backend=None)
        saved = torch.load(out / "last.ckpt", weights_only=True)["state_dict"]
        method.load_state_dict({key[7:]: value for key, value in saved.items() if key.startswith("method.")})
        return metrics, method.eval(), config

    return run


def test_pretext_tasks_of_movement_are_solved_on_people_never_seen(learned):
    """Chance is 0.5. The features are worth less than an untrained encoder's; the paper had 700,000 days."""
    scores = learned("har_multitask")[0]["scores"]
    assert scores["reversal_accuracy"] >= 0.95
    assert scores["permutation_accuracy"] >= 0.89
    assert scores["warp_accuracy"] >= 0.82


def test_sounds_by_byol_a_beat_an_untrained_encoder(learned):
    """Voices are others than those of the training. Mean and deviation of each band do better still."""
    metrics, _, _ = learned("byol_a")
    gains = {probe: metrics[probe] - metrics[f"{probe}_untrained"] for probe in ("few_shot", "linear", "knn")}
    assert gains["few_shot"] >= 0.03 and gains["linear"] >= 0.11 and gains["knn"] >= 0.07


def test_the_equivariant_half_knows_the_turn_and_the_invariant_half_less(learned):
    """R² of the turn between two frames, its cosine and sine: a small network tells it of things never seen."""
    _, method, config = learned("sie")
    data = load(config.data)

    def pairs(known: dict, rows: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Each frame beside the next one of the same thing, and the turn between them."""
        same = (known["object"][1:] == known["object"][:-1]).nonzero()[:, 0]
        (c0, s0), (c1, s1) = (known["pose"][frames].double().T for frames in (same, same + 1))
        turn = torch.stack([c0 * c1 + s0 * s1, c0 * s1 - s0 * c1], 1)
        return torch.cat([rows[same], rows[same + 1]], 1).double().numpy(), turn.numpy()

    def told(rows: torch.Tensor, tested: torch.Tensor) -> float:
        scale = rows.std(0) + 1e-2  # some pixels are always white
        known, turns = pairs(data.extra, rows / scale)
        others, expected = pairs(data.test_extra, tested / scale)
        network = MLPRegressor(
            hidden_layer_sizes=(64,), alpha=1.0, max_iter=200, early_stopping=True, random_state=0
        ).fit(known, turns)
        return r2_score(expected, network.predict(others))

    with torch.no_grad():
        train, test = (method.parts(method.backbone(images)) for images in (data.inputs, data.test_inputs))
    found = {name: told(*halves) for name, *halves in zip(("invariant", "equivariant"), train, test, strict=True)}
    print(f"R2 of the turn: {found}; raw pixels {told(data.inputs.flatten(1), data.test_inputs.flatten(1)):.3f}")
    assert found["equivariant"] >= 0.71 and found["invariant"] <= 0.1


def test_turned_clothes_are_told_from_turned_digits(learned):
    """The rotations of Fashion are known, and those of MNIST surprise."""
    metrics, method, config = learned("rotation")
    assert metrics["scores"]["rotation_accuracy"] >= 0.88
    known = load(config.data).test_inputs[:1000]
    strange = torch.nn.functional.avg_pool2d(load("mnist5k").test_inputs[:1000], 2)
    surprise = [method.method.tasks["rotation"].surprise(method.backbone, images) for images in (known, strange)]
    answers = np.repeat([0, 1], [len(known), len(strange)])
    area = roc_auc_score(answers, torch.cat(surprise).numpy())
    print(f"area under the curve: {area:.3f}")
    assert area >= 0.92


def test_clothes_that_are_mirrored_and_lit_teach_swav(learned):
    """Seeds 0 to 2 had few_shot 0.635, 0.623 and 0.629, and linear 0.716, 0.701 and 0.697; untrained 0.503 to 0.513 and
    0.579 to 0.603, raw 0.631 and 0.694. With views of writing few_shot falls to 0.451.
    """
    metrics, _, _ = learned("swav", "--data", "fashion?count=5000&pool=2", "--set", "writing=false", "--epochs", "5")
    assert metrics["few_shot"] >= 0.603 and metrics["linear"] >= 0.677
    assert metrics["effective_rank"][-1] > 10  # it was 19.6: nothing has collapsed
