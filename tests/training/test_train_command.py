# SPDX-License-Identifier: Apache-2.0
"""``sslkernels train`` seen from outside: the files it writes, what a kill leaves, and the answers to bad input."""

from __future__ import annotations

import base64
import html.parser
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

from sslkernels.cli import main  # noqa: E402
from sslkernels.methods import METHODS  # noqa: E402
from sslkernels.recipes import available  # noqa: E402
from sslkernels.training.checkpoint import AtomicCheckpointIO  # noqa: E402

COMMAND = Path(sys.executable).with_name("sslkernels")
EPOCHS = "3"
ACCURACIES = [probe + of for probe in ("few_shot", "linear", "knn") for of in ("", "_untrained", "_raw")]
COSTS = [
    cost + of
    for cost in ("images_per_second", "loss_milliseconds", "loss_share", "peak_memory_bytes")
    for of in ("", "_reference")
]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, "train", "simclr", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=180)
    finally:
        process.kill()
    return process.returncode, out, err


def wait_for_checkpoint(process: subprocess.Popen[str], folder: Path) -> None:
    while not (folder / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished run, and the lines that it printed."""
    folder = tmp_path_factory.mktemp("whole")
    code, out, err = finish(start(folder, "--epochs", EPOCHS, "--out", "run"))
    assert (code, err) == (0, ""), err
    return folder / "run", out


@pytest.fixture(scope="module")
def metrics(run: tuple[Path, str]) -> dict:
    return json.loads((run[0] / "metrics.json").read_text())


def test_metrics_hold_what_was_found(metrics):
    assert all(0 < metrics[name] <= 1 for name in ACCURACIES)
    assert all(metrics[name] > 0 for name in COSTS)
    assert len(metrics["loss"]) == 15 and metrics["loss"][-1] < metrics["loss"][0]
    assert len(metrics["feature_std"]) == len(metrics["effective_rank"]) == 3
    assert all(0 < std <= 1.1 for std in metrics["feature_std"])
    assert all(1 <= rank <= 128 for rank in metrics["effective_rank"])
    assert metrics["update_milliseconds"] is metrics["update_share_reference"] is None  # nothing moves after a step
    assert (metrics["format"], metrics["method"], metrics["data"], metrics["seed"]) == (2, "simclr", "digits", 0)
    assert metrics["backend"] == "cpu"
    assert metrics["config"]["epochs"] == 3 and metrics["modality"] == "images" and metrics["split"] == "sample"
    assert all(metrics[f"{probe}_pixels"] == metrics[f"{probe}_raw"] for probe in ("few_shot", "linear", "knn"))
    assert metrics["versions"]["torch"] == torch.__version__


def test_last_lines_are_the_figures(run, metrics):
    lines = dict(line.split(maxsplit=1) for line in run[1].splitlines() if " " in line)
    for name in ACCURACIES + COSTS:
        assert float(lines[name]) == pytest.approx(metrics[name], abs=1e-4), name
    for name in ("feature_std", "effective_rank"):
        assert lines[name] == f"{metrics[name][-1]:.4f} after 3 epochs"
    assert run[1].rstrip().splitlines()[-1].startswith("loss ")
    assert "update_" not in run[1] and "warning" not in run[1]
    assert lines["epoch"].startswith("3/3")


def test_folder_holds_logs_checkpoint_and_nothing_temporary(run):
    assert sorted(os.listdir(run[0])) == ["last.ckpt", "logs", "metrics.json", "report.html", "tensorboard"]
    rows = (run[0] / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 15 + 3  # a header, 15 steps and 3 epochs
    assert {"feature_std", "effective_rank", "loss"} <= set(rows[0].split(","))
    assert list((run[0] / "tensorboard").rglob("events.out.tfevents.*"))


def test_report_is_whole_and_needs_no_other_file(run, metrics):
    text = (run[0] / "report.html").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) == 4 == text.count("<img")
    for picture in pictures:
        assert base64.b64decode(picture, validate=True).startswith(b"\x89PNG")
    assert "http" not in text and "<script" not in text
    assert f"{metrics['few_shot']:.1%}" in text
    first_section = text[: text.index("What the features are worth")]
    assert f"{metrics['loss_milliseconds']:.2f} ms" in first_section and "update" not in first_section
    assert "Spread of the features" in text and "collapsed" not in text

    class Balanced(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attributes):
            self.open += [tag] * (tag not in ("meta", "img"))

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Balanced()
    parser.feed(text)
    assert parser.open == []


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_losses(tmp_path, metrics):
    process = start(tmp_path, "--epochs", EPOCHS, "--out", "run")
    wait_for_checkpoint(process, tmp_path / "run")
    process.kill()
    process.communicate()
    kept = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["loss"]
    assert kept == metrics["loss"][: len(kept)]
    assert not (tmp_path / "run" / "metrics.json").exists()
    code, _, err = finish(start(tmp_path, "--out", "run", "--resume"))
    assert (code, err) == (0, "")
    resumed = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for name in ("loss", "feature_std", "effective_rank"):
        assert resumed[name] == metrics[name]
    assert {name: resumed[name] for name in ACCURACIES} == {name: metrics[name] for name in ACCURACIES}


def test_interrupt_keeps_a_whole_checkpoint(tmp_path):
    process = start(tmp_path, "--epochs", "1000", "--out", "run")
    wait_for_checkpoint(process, tmp_path / "run")
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert err == "sslkernels: interrupted; run/last.ckpt is whole, continue with --out run --resume.\n"
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["format"] == 1


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = main(arguments)
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    assert err.startswith("sslkernels: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["train"], "METHOD"),
        (
            ["train", "nope"],
            f"method is 'nope'; accepted are {', '.join(available())}.",
        ),
        (["train", "simclr", "--data", "imagefolder:nowhere"], "nothing is there"),
        (["train", "simclr", "--data", "faces"], "data is 'faces'; accepted are audiofolder:PATH, brain, cifar10:PATH"),
        (["train", "simclr", "--epochs", "0"], "--epochs is 0; pass a whole number of at least 1"),
        (["train", "simclr", "--epochs", "many"], "--epochs"),
        (["train", "simclr", "--lr", "-1"], "--lr is -1.0; pass a finite number above 0."),
        (["train", "simclr", "--lr", "nan"], "--lr is nan"),
        (
            ["train", "vicreg", "--temperature", "0.5"],
            "vicreg has no option temperature; its own are projection_dim,",
        ),
        (["train", "barlow_twins", "--lambd", "-1"], "BarlowTwins: lambd is -1.0; pass a finite number of at least 0"),
        (["train", "simclr", "--projection-dim", "0"], "SimCLR: projection_dim is 0; pass a whole number of at least"),
        (["train", "simclr", "--set", "projection_dim=0"], "SimCLR: projection_dim is 0; pass a whole number of at"),
        (["train", "simclr", "--set", "temperature"], "--set is 'temperature'; write NAME=VALUE, such as temperature"),
        (["train", "simclr", "--set", "temperature=x"], "train: temperature is 'x'; pass a number."),
        (["train", "simclr", "--set", "temprature=1"], "simclr has no option temprature; did you mean temperature?"),
        (["train", "simclr", "--set", "temperature=1", "--temperature=1"], "--set temperature came, and temperature"),
        (
            ["train", "simclr", "--data", "digits?size=3"],
            "data: digits has no setting size; its own are subset.",
        ),
        (["train", "simclr", "--data", "digits:x"], "data is 'digits:x', and digits takes no path; write digits."),
        (["train", "simclr", "--seed", "-1"], "--seed is -1"),
        (["train", "simclr", "--batch-size", "1439"], "digits has 1438 training samples; pass at most 1438"),
        (["train", "simclr", "--batch-size", "1"], "--batch-size is 1; pass a whole number of at least 2"),
        (["train", "simclr", "--devices", "3"], "a batch size that the devices divide"),
        (["train", "simclr", "--backend", "cuda"], "backend 'cuda' cannot run: this op has no kernels for it"),
        (["train", "simclr", "--precision", "8"], "--precision is '8'; accepted are '32-true'"),
        (
            ["train", "simclr", "--precision", "16-mixed"],
            "--precision is 16-mixed, which needs a GPU, and none is here",
        ),
        (
            ["train", "simclr", "--image-size", "16"],
            "--image-size came and the images of digits have a size; leave it out",
        ),
        (["train", "simclr", "--epochs", "9" * 30], "--epochs is 9999999999"),
        (["train", "simclr", "--resume"], "--resume came without --out"),
        (["train", "simclr", "--resume", "--out", "new"], "last.ckpt does not exist"),
    ],
)
def test_bad_options_get_one_sentence_and_leave_nothing(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, *arguments)
    assert os.listdir(tmp_path) == []


def test_truncated_cifar_gets_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(b"\0" * 4000)
    assert "data_batch_1.bin has 4000 bytes" in refused(capsys, "train", "simclr", "--data", f"cifar10:{tmp_path}")
    assert os.listdir(tmp_path) == ["data_batch_1.bin"]


def test_used_folder_is_kept(run, capsys):
    before = (run[0] / "metrics.json").stat()
    assert "is not an empty folder" in refused(capsys, "train", "simclr", "--out", str(run[0]))
    assert (run[0] / "metrics.json").stat() == before


def test_divergence_stops_the_run_and_keeps_the_last_whole_epoch(capsys, tmp_path):
    code = main(["train", "simclr", "--lr", "1e30", "--epochs", "50", "--out", str(tmp_path / "run")])
    out, err = capsys.readouterr()
    assert code == 2 and "no finite number in epoch" in err and err.count("\n") == 1
    assert "epoch 10/50" not in out and not (tmp_path / "run" / "metrics.json").exists()
    if (tmp_path / "run" / "last.ckpt").exists():
        assert all(map(math.isfinite, torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["loss"]))


class Alike(METHODS["i_jepa"]):
    """Pulls every token to the batch's mean, and lets nothing keep images apart."""

    def forward(self, views):
        features = self.backbone(views[0])
        return {"loss": self.loss(features, features.mean(0)), "embeddings": (features, features.mean(0))}

    def loss(self, features, mean):
        return (features - mean).square().mean()


@pytest.mark.slow
def test_a_collapse_is_said_and_reported_beside_the_update(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(METHODS, "i_jepa", Alike)
    assert main(["train", "i_jepa", "--epochs", "3", "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (warning,) = (line for line in lines if line.startswith("warning: "))
    text = (tmp_path / "run" / "report.html").read_text()
    assert f'<p class="warning">{warning.removeprefix("warning: ")}</p>' in text
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    first_section = text[: text.index("What the features are worth")]
    for of in ("", "_reference"):
        assert 0 < metrics["update_share" + of] < 1
        assert f"{metrics['update_milliseconds' + of]:.2f} ms" in first_section
        assert any(line.startswith(f"update_milliseconds{of} ") for line in lines)


@pytest.mark.slow
def test_a_whole_run_from_before_the_features_were_watched_is_reported(run, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    checkpoint = torch.load(run[0] / "last.ckpt", weights_only=True)
    for name in ("feature_std", "effective_rank"):
        del checkpoint[name]
    AtomicCheckpointIO({}).save_checkpoint(checkpoint, tmp_path / "run" / "last.ckpt")
    assert main(["train", "simclr", "--out", str(tmp_path / "run"), "--resume"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["feature_std"] == metrics["effective_rank"] == [None] * 3
    assert "Not measured" in (tmp_path / "run" / "report.html").read_text()
    assert "feature_std" not in capsys.readouterr().out


def test_resume_refuses_another_curve(run, capsys):
    message = refused(capsys, "train", "simclr", "--out", str(run[0]), "--resume", "--seed", "5")
    assert "--seed is 5 and" in message and "was trained with 0" in message


def test_truncated_checkpoint_gets_one_sentence(run, tmp_path, capsys):
    half = (run[0] / "last.ckpt").read_bytes()[:100_000]
    (tmp_path / "last.ckpt").write_bytes(half)
    assert "is truncated or not a checkpoint" in refused(capsys, "train", "simclr", "--out", str(tmp_path), "--resume")
    assert os.listdir(tmp_path) == ["last.ckpt"]
    assert (tmp_path / "last.ckpt").read_bytes() == half


def test_missing_extra_is_named(tmp_path):
    code = (
        "import sys; sys.modules['lightning'] = None; sys.modules['lightning.pytorch'] = None\n"
        "from sslkernels.cli import main; sys.exit(main(['train', 'simclr']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'sslkernels[train]'" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["bench"], ["explain"], ["info"]])
def test_help_has_an_example(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert re.search(r"^ +sslkernels " + " ".join(command), text.split("example", 1)[1], re.MULTILINE)


def test_info_prints_backends(capsys):
    assert main(["info"]) == 0
    assert "backend cpu: available" in capsys.readouterr().out
