# SPDX-License-Identifier: Apache-2.0
"""The first command that a user runs must learn, in each seed. The gate runs one seed, `pytest -m seeds` the others."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("lightning")

from sslkernels.cli import main  # noqa: E402

SEEDS = [0, pytest.param(1, marks=pytest.mark.seeds), pytest.param(2, marks=pytest.mark.seeds)]


@pytest.mark.slow
@pytest.mark.share(3)
@pytest.mark.parametrize("run_seed", SEEDS)
@pytest.mark.parametrize(("method", "gain"), [("simclr", 0.12), ("barlow_twins", 0.10), ("vicreg", 0.10)])
def test_digits_beat_pixels_and_the_untrained_encoder(tmp_path, method, gain, run_seed):
    assert main(["train", method, "--seed", str(run_seed), "--out", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["few_shot"] > 0.852
    assert metrics["few_shot"] > metrics["few_shot_pixels"]
    assert metrics["few_shot"] >= metrics["few_shot_untrained"] + gain
    # The k nearest of all 1438 labelled images: pixels do best there, and Barlow Twins is no better.
    assert metrics["knn"] > metrics["knn_untrained"]
    assert metrics["linear"] > max(metrics["linear_untrained"], metrics["linear_pixels"])


@pytest.mark.slow
@pytest.mark.share(3)
@pytest.mark.parametrize("run_seed", SEEDS)
@pytest.mark.parametrize("method", ["moco_v2", "moco_v3", "moby"])
def test_queues_and_keys_of_a_teacher_beat_pixels(tmp_path, method, run_seed):
    assert main(["train", method, "--seed", str(run_seed), "--out", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (
        metrics["few_shot"] > 0.852
    )  # raw pixels have this in another split and 0.865 in this one; measured were 0.871 to 0.891
    assert metrics["few_shot"] >= metrics["few_shot_untrained"] + 0.08


@pytest.mark.slow
@pytest.mark.share(3)
def test_soft_targets_over_a_queue_beat_the_untrained_encoder(tmp_path):
    """Measured were 0.876 to 0.889, where the untrained encoders have 0.724 to 0.763."""
    assert main(["train", "sce", "--seed", "0", "--out", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["few_shot"] > 0.85


@pytest.mark.slow
@pytest.mark.share(3)
@pytest.mark.parametrize("run_seed", SEEDS)
@pytest.mark.parametrize("method", ["byol", "simsiam"])
def test_agreement_alone_does_not_collapse(tmp_path, method, run_seed):
    assert main(["train", method, "--seed", str(run_seed), "--out", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["linear"] >= metrics["linear_untrained"] + 0.05


@pytest.mark.slow
@pytest.mark.share(3)
@pytest.mark.parametrize("run_seed", SEEDS)
def test_mae_learns_the_digits_from_a_quarter_of_their_patches(tmp_path, run_seed):
    """At this size pixels are the better neighbours, so the test looks at the gain over the untrained encoder."""
    assert main(["train", "mae", "--seed", str(run_seed), "--out", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["few_shot"] >= metrics["few_shot_untrained"] + 0.20
    assert metrics["linear"] > metrics["linear_untrained"]
    assert "Reconstructions" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.share(3)
def test_pirl_learns_from_what_a_bank_remembers(tmp_path):
    assert main(["train", "pirl", "--out", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    # Seeds 0 to 2 had 0.882, 0.868 and 0.847; the untrained encoder has 0.724, 0.735 and 0.763.
    assert metrics["few_shot"] > 0.82
    assert metrics["linear"] > metrics["linear_untrained"]


@pytest.mark.slow
@pytest.mark.share(3)
def test_deep_cluster_learns_from_the_clusters_of_its_banks(tmp_path):
    assert main(["train", "deep_cluster_v2", "--out", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    # Seeds 0 to 2 had 0.886, 0.874 and 0.881; the untrained encoder has 0.724, 0.735 and 0.763.
    assert metrics["few_shot"] > 0.85
    assert metrics["linear"] > metrics["linear_untrained"]


@pytest.mark.slow
@pytest.mark.share(3)
def test_msn_learns_the_digits_from_a_part_of_their_patches(tmp_path):
    """Seed 0 had 0.637 and the untrained encoder 0.284; pixels are the better neighbours at this size."""
    assert main(["train", "msn", "--threads", "1", "--out", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["few_shot"] >= 0.60
    assert metrics["linear"] > metrics["linear_untrained"]
    assert metrics["knn"] > metrics["knn_untrained"]


@pytest.mark.slow
@pytest.mark.share(3)
@pytest.mark.parametrize("run_seed", SEEDS)
def test_i_jepa_learns_the_digits_from_its_teacher(tmp_path, run_seed):
    assert main(["train", "i_jepa", "--seed", str(run_seed), "--out", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["few_shot"] >= metrics["few_shot_untrained"] + 0.10
    assert metrics["linear"] > metrics["linear_untrained"]


@pytest.mark.slow
@pytest.mark.share(3)
@pytest.mark.parametrize("run_seed", SEEDS)
def test_telling_every_image_apart_beats_pixels(tmp_path, run_seed):
    assert main(["train", "diet", "--seed", str(run_seed), "--out", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["few_shot"] > 0.888  # measured were 0.908 to 0.916, and 0.865 of pixels
    assert metrics["linear"] > 0.928 > metrics["linear_pixels"]
    assert metrics["knn"] > metrics["knn_untrained"]


@pytest.mark.slow
@pytest.mark.share(3)
@pytest.mark.parametrize(
    ("method", "steps"),
    [("simclr", 10), ("mae", 44), ("diet", 10), ("i_jepa", 44), ("byol", 44), ("moco_v2", 22)]
    + [
        pytest.param(method, steps, marks=pytest.mark.seeds)  # their state is of the same kinds
        for method, steps in (
            ("barlow_twins", 10),
            ("vicreg", 10),
            ("simsiam", 88),
            ("moco_v3", 22),
            ("moby", 22),
            ("pirl", 10),
            ("dense_cl", 22),
        )
    ],
)
def test_two_devices_train_and_resume(tmp_path, capfd, method, steps):
    arguments = ["train", method, "--epochs", "2", "--devices", "2", "--out", str(tmp_path)]
    assert main(arguments) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert len(metrics["loss"]) == steps and len(metrics["feature_std"]) == 2
    moves = ("i_jepa", "byol", "moco_v2", "moby", "dense_cl", "pirl")  # the targets of these move
    assert method in moves or metrics["loss"][-1] < metrics["loss"][0]
    assert main([*arguments, "--resume"]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["loss"] == metrics["loss"]
