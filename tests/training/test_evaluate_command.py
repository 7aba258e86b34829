# SPDX-License-Identifier: Apache-2.0
"""``sslkernels evaluate`` seen from outside: what it writes, what it says, and the answers to bad input."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

from small_runs import files  # noqa: E402

from sslkernels.cli import main  # noqa: E402
from sslkernels.data import load  # noqa: E402
from sslkernels.evaluation import MEASURES, encode, feature_spread  # noqa: E402
from sslkernels.inspection import run as running  # noqa: E402
from sslkernels.recipes import find  # noqa: E402

FEW = "rank_me,few_shot,linear_10,knn"


@pytest.fixture
def few(copied, monkeypatch) -> Path:
    """A folder with a run, and with rows and labels in files."""
    draw = np.random.default_rng(0)
    labels = np.arange(60) % 3
    np.save("z.npy", draw.normal(size=(60, 5)) + 3 * np.eye(5)[labels])
    np.save("y.npy", labels)
    return copied


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main(["evaluate", *arguments]) == code, capsys.readouterr().err
    out, err = capsys.readouterr()
    return out, err


def test_a_run_is_measured_beside_its_untrained_encoder(few, capsys):
    metrics = json.loads(Path("run/metrics.json").read_text())
    out, err = evaluate(capsys, "run", "--only", FEW)
    found = json.loads(Path("run/evaluation.json").read_text())
    assert err == "" and found["format"] == 1
    assert set(found) == {"format", "subject", "measures", "left_out", "failed", "device", "threads", "versions"}
    assert found["subject"] == {
        "kind": "run", "name": "run", "data": "npz:small.npz", "modality": "images", "samples": 48, "test_samples": 12,
        "classes": 2, "feature_dim": 128,
    }  # fmt: skip
    for ours, theirs in (("few_shot", "few_shot"), ("linear_10", "linear"), ("knn", "knn")):
        assert found["measures"][ours]["value"] == metrics[theirs]
        assert found["measures"][ours]["untrained"] == metrics[f"{theirs}_untrained"]
    lines = out.splitlines()
    assert lines[0].startswith("run on npz:small.npz, into run: The encoder of simclr after 2 of 2 epochs on npz:small")
    assert evaluate(capsys, "run/last.ckpt", "--only", "knn")[0].splitlines()[0] == lines[0]
    assert lines[-1].split() == ["knn", f"{metrics['knn']:.4f}", "untrained", f"{metrics['knn_untrained']:.4f}"]
    assert {"metrics.json", "report.html", "last.ckpt"} <= set(os.listdir("run"))


def test_the_page_is_whole_and_needs_no_other_file(few, capsys):
    evaluate(capsys, "run", "--only", FEW, "--out", "new/folder")
    assert sorted(os.listdir("new/folder")) == ["evaluation.html", "evaluation.json"]
    text = Path("new/folder/evaluation.html").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) == text.count("<img") == 3  # spectrum, embedding, neighbours
    assert all(base64.b64decode(each, validate=True).startswith(b"\x89PNG") for each in pictures)
    assert "http" not in text and "<script" not in text
    assert MEASURES["knn"].meaning in text and "<th>untrained</th>" in text


def test_a_recipe_is_its_untrained_encoder(few, capsys):
    out, _ = evaluate(capsys, "simclr", "--data", "npz:small.npz", "--set", "widths=4,8,8", "--only", FEW)
    (folder,) = Path("runs").iterdir()
    found = json.loads((folder / "evaluation.json").read_text())
    assert folder.name.startswith("evaluate-simclr-") and found["subject"]["feature_dim"] == 8
    assert "The untrained encoder of simclr" in out and "untrained" not in found["measures"]["knn"]


@pytest.mark.parametrize("prefix", ["", "module.backbone."])
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_weights_are_loaded_into_the_backbone(few, capsys, prefix, ending):
    backbone = find("simclr").build_backbone(load("npz:small.npz"), {"widths": (4, 8, 8)})
    state = {prefix + name: value.contiguous() for name, value in backbone.state_dict().items()}
    if ending == "pt":
        torch.save({"state_dict": {**state, "head.weight": torch.ones(2)}}, "weights.pt")
    else:
        pytest.importorskip("safetensors.torch").save_file(state, "weights.safetensors")
    options = ("--backbone", "resnet", "--set", "widths=4,8,8", "--data", "npz:small.npz", "--only", "feature_std")
    evaluate(capsys, f"weights.{ending}", *options, "--out", "found")
    each = json.loads(Path("found/evaluation.json").read_text())["measures"]["feature_std"]
    expected = feature_spread(encode(backbone, load("npz:small.npz").inputs))
    assert each["value"] == expected.feature_std and each["untrained"] != each["value"]


def test_features_with_labels_in_words(few, capsys):
    np.save("y.npy", np.array(["cat", "dog", "owl"])[np.load("y.npy")])
    evaluate(capsys, "features:z.npy", "labels:y.npy", "--out", "found")
    found = json.loads(Path("found/evaluation.json").read_text())
    assert found["subject"]["classes"] == 3 and found["subject"]["samples"] == 48
    assert found["measures"]["knn"]["value"] > 0.8
    assert {name for name, each in MEASURES.items() if "encoder" in each.needs} <= set(found["left_out"])
    assert found["failed"] == {}
    evaluate(capsys, "features:z.npy", "--out", "found", "--only", "rank_me,knn")
    found = json.loads(Path("found/evaluation.json").read_text())
    assert list(found["measures"]) == ["rank_me"] and "labels" in found["left_out"]["knn"]


@pytest.mark.parametrize("rows", [np.ones((60, 4)), np.zeros((60, 4)), np.arange(60)[:, None]])
def test_a_collapse_is_measured_too(few, capsys, rows):
    np.save("z.npy", rows)
    out, err = evaluate(capsys, "features:z.npy", "labels:y.npy", "--out", "found", "--only", "rank_me,spectrum,knn")
    found = json.loads(Path("found/evaluation.json").read_text())
    assert err == "" and found["measures"]["rank_me"]["value"] == pytest.approx(float(rows.any()), abs=1e-3)
    assert "no finite number" in found["failed"]["spectrum"]
    assert "Not drawn: the features of held-out samples" in Path("found/evaluation.html").read_text()


class Shouting:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return (open, ("shouted", "w"))


def hostile() -> None:
    np.save("objects.npy", np.array([Shouting()], dtype=object), allow_pickle=True)
    Path("pickle.npy").write_bytes(pickle.dumps(Shouting()))
    torch.save({"a": Shouting()}, "code.pt")
    torch.save(torch.ones(3), "tensor.pt")
    torch.save({"stem.0.weight": torch.ones(1)}, "other.pt")
    Path("cut.safetensors").write_bytes(b"\xff" * 20)
    rows = np.load("z.npy")
    np.save("nan.npy", np.where(np.arange(60)[:, None] == 7, np.nan, rows))
    np.save("huge.npy", rows * 1e300)
    np.save("tiny.npy", rows * 1e-300)
    np.save("flat.npy", rows[0])
    np.save("words.npy", np.full((60, 2), "a"))
    np.save("short.npy", rows[:4])
    np.save("few_labels.npy", np.arange(59))
    np.save("real_labels.npy", np.arange(60) + 0.5)
    np.save("lonely.npy", np.arange(60))
    np.savez("two.npz", a=rows, b=rows)
    Path("cut.npy").write_bytes(Path("z.npy").read_bytes()[:300])
    Path("empty.npy").write_bytes(b"")
    os.mkfifo("fifo.npy")
    os.mkdir("nothing")
    os.mkdir("damaged")
    whole = bytearray(Path("run/last.ckpt").read_bytes())
    whole[len(whole) // 2] ^= 1
    Path("damaged/last.ckpt").write_bytes(whole)
    os.mkdir("foreign")
    torch.save({"state_dict": {}}, "foreign/last.ckpt")
    os.mkdir("coded")
    torch.save({"format": 1, "a": Shouting()}, "coded/last.ckpt")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "'nowhere' is no folder or file that exists, and no method or recipe; pass the folder of a run"),
        (["nothing"], "nothing holds no last.ckpt; pass the folder of a run"),
        (["damaged"], "damaged/last.ckpt is damaged, its entry"),
        (["foreign"], "evaluate: foreign/last.ckpt is not a checkpoint of sslkernels train; train the run anew."),
        (["coded"], "evaluate: coded/last.ckpt is truncated or not a checkpoint; train the run anew."),
        (["run", "--only", "rankme,knn"], "evaluate: no measure is named 'rankme'"),
        (["run", "--only", ","], "evaluate: only is empty"),
        (["run", "labels:y.npy"], "one thing is evaluated, and labels:FILE.npy may follow features:FILE.npy"),
        (["run", "--backbone", "vit"], "--backbone came with run, which is a run and takes none"),
        (["run", "--set", "widths=4"], "--set came with run, which is a run and takes none"),
        (["run", "--data", "segment"], "--data is segment, which has tables, and run was trained on images"),
        (["run", "--data", "nope"], "data is 'nope'; accepted are"),
        (["run", "--out", "small.npz"], "--out is small.npz, and small.npz is no folder that can be written"),
        (["run", "--out", "small.npz/deep"], "small.npz is no folder that can be written"),
        (["simclr", "--set", "temprature=1"], "simclr has no option temprature; did you mean temperature?"),
        (["simclr", "--set", "temperature"], "--set is 'temperature'; write NAME=VALUE"),
        (["tensor.pt"], "no --backbone came, and tensor.pt is a file of weights; pass --backbone"),
        (["tensor.pt", "--backbone", "bert"], "--backbone is 'bert', and tensor.pt is a file of weights"),
        (["tensor.pt", "--backbone", "resnet"], "tensor.pt holds no dictionary of tensors by name"),
        (["code.pt", "--backbone", "resnet"], "code.pt cannot be read as weights"),
        (["cut.safetensors", "--backbone", "resnet"], "cut.safetensors cannot be read as weights"),
        (["other.pt", "--backbone", "resnet"], "other.pt lacks stem.1.weight of the backbone resnet"),
        (["other.pt", "--backbone", "resnet", "--set", "width=3"], "resnet has no setting width; did you mean widths?"),
        (["features:absent.npy"], "evaluate: features:absent.npy does not exist; pass the path of a .npy file."),
        (["features:nothing"], "nothing cannot be read (it is a folder and no regular file)"),
        (["features:objects.npy"], "objects.npy cannot be read (it holds pickled objects)"),
        (["features:pickle.npy"], "pickle.npy cannot be read (it holds pickled objects)"),
        (["features:fifo.npy"], "fifo.npy cannot be read (it is a fifo and no regular file)"),
        (["features:cut.npy"], "cut.npy cannot be read ("),
        (["features:empty.npy"], "empty.npy cannot be read ("),
        (["features:two.npz"], "two.npz is an archive of several arrays; pass one array"),
        (["features:z.npy", "labels:absent.npy"], "evaluate: labels:absent.npy does not exist; pass the path"),
        (["features:nan.npy"], "features:nan.npy has 1 of 60 rows with numbers that are not finite in float32; leave"),
        (["features:huge.npy"], "huge.npy has 60 of 60 rows with numbers that are not finite in float32; leave those"),
        (["features:tiny.npy"], "features:tiny.npy has 60 of 60 rows that are zeros in float32; scale all rows up."),
        (["features:flat.npy"], "features:flat.npy has shape (5,) and dtype float64; pass a file of numbers of shape"),
        (["features:words.npy"], "words.npy has shape (60, 2) and dtype <U1; pass a file of numbers of shape (N, D)"),
        (["features:short.npy"], "features:short.npy has 4 rows; pass a file of at least 10, of which a fifth"),
        (["features:z.npy", "labels:few_labels.npy"], "labels:few_labels.npy has shape (59,) and dtype int64;"),
        (["features:z.npy", "labels:real_labels.npy"], "pass a file of whole numbers or words of shape (N,), one for"),
        (["features:z.npy", "labels:lonely.npy"], "has 1 samples; a split into training and test needs at least 3"),
        (["features:z.npy", "y.npy"], "one thing is evaluated, and labels:FILE.npy may follow"),
        (["features:z.npy", "--data", "digits"], "--data came with features:z.npy, which is features and takes none"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence_and_changes_nothing(few, capsys, recwarn, arguments, words):
    hostile()
    before = files(few) if "fifo" not in " ".join(arguments) else None
    out, err = evaluate(capsys, *arguments, code=2)
    assert words in err and err.startswith("sslkernels: ") and err.count("\n") == 1, err
    assert not Path("shouted").exists() and not Path("runs").exists()
    assert before is None or files(few) == before


def test_a_folder_that_may_not_be_written_is_refused_before_the_work(few, capsys, monkeypatch):
    monkeypatch.setattr(running.os, "access", lambda *_: False)
    _, err = evaluate(capsys, "run", code=2)
    assert err == "sslkernels: evaluate: --out is run, and run is no folder that can be written; pass another.\n"


def test_a_measure_that_fails_is_said_and_the_rest_is_written(few, capsys, monkeypatch):
    def failing(given):
        raise RuntimeError("it diverged")

    monkeypatch.setitem(MEASURES, "knn", replace(MEASURES["knn"], of=failing))
    out, _ = evaluate(capsys, "run", "--only", FEW)
    found = json.loads(Path("run/evaluation.json").read_text())
    assert found["failed"] == {"knn": "it diverged."} and len(found["measures"]) == 3
    assert out.splitlines()[-1].split(maxsplit=1) == ["knn", "failed: it diverged."]
    assert "It failed: it diverged." in Path("run/evaluation.html").read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_the_folder_as_it_was(few, capsys, monkeypatch, number, code):
    monkeypatch.setitem(
        MEASURES, "knn", replace(MEASURES["knn"], of=lambda given: os.kill(os.getpid(), number) or signal.pause())
    )
    before = files(few)
    _, err = evaluate(capsys, "run", "--only", FEW, code=code)
    assert err == "sslkernels: interrupted; evaluate the same again to begin anew.\n"
    assert files(few) == before


def test_data_that_changed_or_moved_is_said(few, capsys):
    os.rename("small.npz", "moved.npz")
    _, err = evaluate(capsys, "run", code=2)
    assert "was trained on npz:small.npz, which is not there any more; pass --data with the place" in err
    out, _ = evaluate(capsys, "run", "--only", "knn", "--data", "npz:moved.npz")
    assert "warning" not in out
    arrays = dict(np.load("moved.npz"))
    np.savez("small.npz", **{**arrays, "images": 1 - arrays["images"]})
    out, _ = evaluate(capsys, "run", "--only", "knn")
    assert "warning: npz:small.npz is not what run was trained on: other training images, as many as before." in out
    np.savez("small.npz", **{**arrays, "images": np.repeat(arrays["images"][..., None], 3, 3)})
    _, err = evaluate(capsys, "run", "--only", "knn", code=2)
    assert "the encoder of run does not fit samples of npz:small.npz" in err.splitlines()[-1]
