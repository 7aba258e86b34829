# SPDX-License-Identifier: Apache-2.0
"""A new run begins with the weights of another one, says which, and resumes without it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

from small_methods import small_data, small_numbers  # noqa: E402
from small_runs import OPTIONS, STEPS, complaint, files  # noqa: E402

from sslkernels.cli import main  # noqa: E402
from sslkernels.methods import Method  # noqa: E402
from sslkernels.recipes import find  # noqa: E402
from sslkernels.state import EMA  # noqa: E402
from sslkernels.training import LitMethod, train  # noqa: E402
from sslkernels.training.checkpoint import PARTS, AtomicCheckpointIO  # noqa: E402
from sslkernels.training.config import TrainConfig  # noqa: E402
from sslkernels.training.run import Prepared, prepare  # noqa: E402
from sslkernels.training.start import Start  # noqa: E402

PROBES = ("few_shot", "linear", "knn")


def prepared(name: str, start: Start | None = None, **options: object) -> Prepared:
    recipe = find(name)
    config = TrainConfig.from_options(name, {**small_numbers(recipe), "batch_size": 16, **options})
    return prepare(config, [], small_data(recipe.modality.name), start)


def trained(name: str, **options: object) -> tuple[Start, Method]:
    """A run of a method whose weights are all other than the first, and that method."""
    learner = prepared(name, **options).learner
    with torch.no_grad():
        for each in learner.state_dict().values():
            if isinstance(each, torch.Tensor) and each.is_floating_point():
                each.add_(torch.rand_like(each))
        for part in learner.modules():
            if isinstance(part, EMA):
                part.step = 7
    state = {"state_dict": LitMethod(learner).state_dict(), "method": name, "epoch": 1, "config": {"epochs": 3}}
    AtomicCheckpointIO({**dict.fromkeys(PARTS, 0), "format": 1, **state}).save_checkpoint({}, "other/last.ckpt")
    return Start.read("other"), learner


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def check_same(one: torch.nn.Module, other: torch.nn.Module, different: bool = False) -> None:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    assert [torch.equal(first, second) for first, second in pairs].count(different) == 0


def test_a_run_begins_with_another_one_s_weights_and_resumes_without_it(copied, capsys):
    before = json.loads(Path("run/metrics.json").read_text())
    begin = ["train", "simclr", *OPTIONS, "--epochs", "1", "--out", "second"]
    assert main([*begin, "--start", "run", "--lr", "1e-30", "--seed", "3"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "taken from run (simclr, 2 of 2 epochs): 52 tensors of backbone, projector" in out
    old, new = (torch.load(f"{run}/last.ckpt", weights_only=True)["state_dict"] for run in ("run", "second"))
    taken = [torch.equal(old[name], new[name]) for name in old if "running" not in name and "num_batches" not in name]
    assert all(taken) and len(taken) > 30
    metrics = json.loads(Path("second/metrics.json").read_text())
    assert metrics["config"]["start"] == "run"
    for probe in PROBES:
        assert metrics[f"{probe}_started"] == before[probe]
        assert f"{probe}_started" not in before
    first = [metrics[f"{probe}_untrained"] for probe in PROBES]
    assert main(["evaluate", "second", "--only", "few_shot,linear_10,knn"]) == 0
    assert "of 1 epochs on npz:small.npz, seed 3, begun with the weights of run." in capsys.readouterr().out
    found = json.loads(Path("second/evaluation.json").read_text())["measures"]
    assert [found[name]["untrained"] for name in ("few_shot", "linear_10", "knn")] == first
    assert "<th>started</th>" in Path("second/report.html").read_text()
    assert "<th>started</th>" not in Path("run/report.html").read_text()

    shutil.rmtree("run")
    assert main(["train", "simclr", "--out", "second", "--resume", "--epochs", "2"]) == 0
    again = json.loads(Path("second/metrics.json").read_text())
    assert again["loss"][:STEPS] == metrics["loss"] and len(again["loss"]) == 2 * STEPS
    assert [again[f"{probe}_{of}"] for of in ("started", "untrained") for probe in PROBES] == [
        *(before[probe] for probe in PROBES), *first
    ]  # fmt: skip


def test_the_second_stage_has_the_backbone_of_the_first():
    start, first = trained("ca_dino")
    second = prepared("dlg_lc", start)
    check_same(second.learner.backbone, first.backbone)
    check_same(second.untrained, prepared("dlg_lc").learner.backbone)
    assert torch.equal(second.learner.centers, prepared("dlg_lc").learner.centers)
    assert second.begun.startswith("taken from other (ca_dino, 2 of 3 epochs): ")
    assert second.begun.endswith(
        " tensors of backbone; new here: centers, pseudo; left there: center, clusters, projector, teacher"
    )


def test_a_teacher_is_the_run_s_or_a_copy_of_the_student():
    # NNCLR has the projector of MoCo v3, and no teacher.
    start, first = trained("nnclr")
    learner = prepared("moco_v3", start).learner
    check_same(learner.backbone, first.backbone)
    check_same(learner.online, learner.teacher.module)
    for name in ("byol", "moco_v2"):
        start, first = trained(name)
        learner = prepared(name, start).learner
        check_same(learner, first)
        check_same(learner.online, learner.teacher.module, different=True)
        assert learner.teacher.step == -1  # or the teacher would stand still for as many steps
    assert torch.equal(learner.queue.keys, prepared(name).learner.queue.keys)
    # A head of another size begins anew, and so does its teacher.
    other = prepared("byol", trained("byol")[0], projection_dim=8)
    check_same(other.learner.online, other.learner.teacher.module)
    assert "of backbone; new here: predictor, projector, teacher" in other.begun


def test_a_term_and_a_teacher_of_the_backbone_alone_keep_no_weights_back():
    for name, other in (("simclr", "rotation"), ("rotation", "simclr"), ("rotation", "jigen")):
        start, first = trained(name)
        check_same(prepared(other, start).learner.backbone, first.backbone)
    start, first = trained("dinov3", gram=0.0)
    learner = prepared("dinov3", start).learner
    check_same(learner.teacher, first.teacher)
    check_same(learner.earlier.module, first.backbone)


def test_what_does_not_fit_begins_anew_and_is_counted():
    start, first = trained("simclr", widths=(8, 12))
    second = prepared("simclr", start)
    assert second.begun.endswith(": 15 tensors of backbone (15 of 30); new here: projector")
    state, old = second.learner.backbone.state_dict(), first.backbone.state_dict()
    fresh = second.untrained.state_dict()
    for name, each in state.items():
        if each.dim():
            assert torch.equal(each, old[name] if old[name].shape == each.shape else fresh[name])


def damage(folder: Path) -> None:
    path = folder / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (None, ["--start", "nowhere"], "--start is nowhere, which does not exist; pass the folder of a run"),
        (None, ["--start", "n" * 5000], ", which does not exist; pass the folder"),
        (None, ["--start", "."], "--start is ., which holds no last.ckpt; pass the folder of a run of sslkernels"),
        (None, ["--start", "small.npz"], "small.npz is truncated or not a checkpoint; pass --start with the"),
        (damage, ["--start", "run"], "run/last.ckpt is truncated or not a checkpoint; pass --start with the folder"),
        (None, ["--start", "run", "--set", "widths=5,6,7"], "no weight in the backbone of simclr has name and shape "
         "of one of run (simclr, 2 of 2 epochs); pass --start with a run of such a backbone, or the settings of that"),
    ],
)  # fmt: skip
def test_a_start_that_cannot_be_is_one_sentence(
    copied, capsys, change: Callable[[Path], None] | None, options: list[str], words: str
):
    if change is not None:
        change(Path("run"))
    before = files(Path())
    assert words in complaint(capsys, *OPTIONS, "--out", "new", *options)
    assert files(Path()) == before


def test_a_run_begins_or_is_resumed_and_not_both(copied, capsys):
    before = files(Path())
    words = "--start came with --resume, and a run that is resumed has begun already; leave one of them out."
    assert words in complaint(capsys, "--out", "run", "--resume", "--start", "run")
    with pytest.raises(ValueError, match="--start came with --resume"):
        train("simclr", "run", resume=True, start="run")
    assert files(Path()) == before
