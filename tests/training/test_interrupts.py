# SPDX-License-Identifier: Apache-2.0
"""What goes wrong around a run: kills, interrupts, full disks, damaged and foreign files. Nothing is lost or hangs."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

from sslkernels.cli import main  # noqa: E402
from sslkernels.data import Dataset, load  # noqa: E402
from sslkernels.terminal import say  # noqa: E402
from sslkernels.training import measure, pictures, resume, train  # noqa: E402
from sslkernels.training import run as running  # noqa: E402

COMMAND = Path(sys.executable).with_name("sslkernels")
EPOCHS, STEPS = 2, 3  # of every run, and of every epoch
# A run of a second: 48 images of 8x8 are for training.
OPTIONS = ("--data", "npz:small.npz", "--epochs", str(EPOCHS), "--batch-size", "16")


def small_data(path: Path, more: int = 0, **changes: Any) -> None:
    draw = np.random.default_rng(0)
    images = draw.random((60, 8, 8)).astype(np.float32)
    extra = draw.random((more, 8, 8)).astype(np.float32)
    labels = np.arange(60 + more) % 2
    np.savez(path, **{"images": np.concatenate([images, extra]), "labels": labels, **changes})


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Timings and pictures are not the matter here."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("REPEATS", "LOSS_REPEATS", "WARMUPS"):
            patch.setattr(measure, name, 1)
        patch.setattr(measure, "peak_memory", lambda *_: 1)
        for name, value in (("MOST_POINTS", 50), ("QUERIES", 1), ("NEIGHBOURS", 2)):
            patch.setattr(pictures, name, value)
        yield


@pytest.fixture(scope="module")
def whole(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the data of a whole run, which is in ``run`` in it."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small_data(Path("small.npz"))
        assert main(["train", "simclr", *OPTIONS, "--out", "run"]) == 0
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``whole`` of the test's own, which is the working directory."""
    shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    assert main(["train", "simclr", *arguments]) == code
    err = capsys.readouterr().err
    assert err.startswith("sslkernels: ") and err.count("\n") == 1, err
    return err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The sentence with which a resumed run refuses to begin; nothing has been written then."""
    before = files(Path("run"))
    sentence = complaint(capsys, "--out", "run", "--resume", *arguments)
    assert files(Path("run")) == before
    return sentence


# Damaged and foreign checkpoints


def test_a_flipped_bit_of_a_real_checkpoint_is_not_resumed(copied, capsys, seed):
    content, draw = Path("run/last.ckpt").read_bytes(), random.Random(seed)
    for _ in range(5):
        at = draw.randrange(len(content) // 2)  # tensors and their pickle lie there
        Path("run/last.ckpt").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        if b"\0FB" in content[max(0, at - 64) : at + 64] or content[at : at + 1] == b"Z":
            continue  # padding, which holds nothing
        assert "run/last.ckpt is damaged, its entry" in refused(capsys)


@pytest.mark.parametrize("part", ["config", "loops", "epoch", "random_states", "loss", "state_dict", "data"])
def test_a_changed_part_of_a_real_checkpoint_is_not_resumed(copied, capsys, part):
    checkpoint = torch.load("run/last.ckpt", weights_only=True)
    for value in (None, -1, "x", [], {"x": 1}):
        torch.save({**checkpoint, part: value}, "run/last.ckpt")
        assert f"run/last.ckpt was changed after it was written, in its {part!r}" in refused(capsys)


def test_weights_of_another_architecture_are_named(copied, capsys):
    checkpoint = torch.load("run/last.ckpt", weights_only=True)
    weights = checkpoint["state_dict"]
    name = next(iter(weights))
    for changed in (
        {**weights, name: torch.zeros(3)},
        {**weights, "more": torch.zeros(3)},
        {other: value for other, value in weights.items() if other != name},
    ):
        running.AtomicCheckpointIO({}).save_checkpoint({**checkpoint, "state_dict": changed}, "run/last.ckpt")
        assert "and this version's simclr differ in " in refused(capsys)


# Data that changed or moved, and longer runs


def test_data_that_changed_is_refused_and_the_change_named(copied, capsys, monkeypatch):
    images = np.load("small.npz")["images"]
    changes: dict[str, Callable[[], None]] = {
        "52 training images where there were 48": lambda: small_data(Path("small.npz"), more=6),
        "other training images, as many as before": lambda: small_data(Path("small.npz"), images=images[::-1]),
        "training images of 1x9x8 where there were such of 1x8x8": lambda: small_data(
            Path("small.npz"), images=np.zeros((60, 9, 8), np.uint8)
        ),
    }
    for words, change in changes.items():
        change()
        sentence = refused(capsys)
        assert (
            f"npz:small.npz is not what run/last.ckpt was trained on: {words}; pass --data with the place" in sentence
        )
    assert "digits is not what run/last.ckpt was trained on" in refused(capsys, "--data", "digits")
    small_data(Path("small.npz"))
    same = load("npz:small.npz")
    for labels, words in (
        (1 - same.train_labels, "other training labels, as many"),
        (None, "it has no training labels"),
    ):
        monkeypatch.setattr(resume, "load", lambda *_: replace(same, train_labels=labels))  # noqa: B023
        assert words in refused(capsys)


def test_moved_data_and_more_epochs_continue_the_run(copied, capsys):
    Path("small.npz").rename("moved.npz")
    sentence = refused(capsys)
    assert "run/last.ckpt was trained on npz:small.npz, which is not there any more; pass --data with the" in sentence
    before = json.loads(Path("run/metrics.json").read_text())
    more = str(EPOCHS + 1)
    assert main(["train", "simclr", "--out", "run", "--resume", "--data", "npz:moved.npz", "--epochs", more]) == 0
    out = capsys.readouterr().out
    assert "2 epochs were planned and 2 are done: from here on the learning rate follows the schedule of 3\n" in out
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["loss"][: len(before["loss"])] == before["loss"]
    assert len(metrics["loss"]) == (EPOCHS + 1) * STEPS
    assert (metrics["data"], metrics["config"]["epochs"]) == ("npz:moved.npz", EPOCHS + 1)
    checkpoint = torch.load("run/last.ckpt", weights_only=True)
    assert checkpoint["config"]["data"] == "npz:moved.npz"
    # AdamW's last step went at the new schedule's rate: of 9 steps the first is the warm-up.
    rate = 0.5 * (1 + np.cos(np.pi * (9 - 1) / (9 - 1))) * metrics["config"]["lr"]
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(rate, abs=1e-9)
    assert "--epochs is 2 and run/last.ckpt has 3 behind it; pass at least 3" in refused(capsys, "--epochs", "2")


def test_the_first_step_of_a_longer_run_follows_its_schedule(copied, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def noted(self, *arguments, **keywords):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    monkeypatch.setattr(running, "step_costs", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train("simclr", "run", resume=True, epochs=4, say=str)
    peak = torch.load("run/last.ckpt", weights_only=True)["config"]["lr"]
    # 12 steps, the first of them the warm-up; six are done.
    expected = [peak * 0.5 * (1 + np.cos(np.pi * (at - 1) / 11)) for at in range(6, 12)]
    assert rates == pytest.approx(expected)


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


# Full disks


class Full:
    """A file on a full disk."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def write(self, content: bytes) -> int:
        self.file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["metrics.csv", "tfevents", "last.ckpt", "metrics.json", "report.html"])
def test_a_full_disk_is_one_sentence_and_keeps_the_older_file(copied, capsys, monkeypatch, name):
    before = files(Path("run"))
    opened, replaced = builtins.open, os.replace

    def full_open(path, *arguments, **keywords):
        file = opened(path, *arguments, **keywords)
        return Full(file) if name in str(path) and "logs" + os.sep in str(path) or "tfevents" in str(path) else file

    def full_replace(source, target):
        if str(target).endswith(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replaced(source, target)

    if name in ("metrics.csv", "tfevents"):
        monkeypatch.setattr(builtins, "open", full_open)
    monkeypatch.setattr(os, "replace", full_replace)
    sentence = complaint(capsys, "--out", "run", "--resume", "--epochs", str(EPOCHS + 1))
    monkeypatch.undo()
    assert name in sentence and "cannot be written: No space left on device" in sentence
    after = files(copied / "run")
    assert not [path for path in after if path.endswith(".partial")]
    changed = {path for path, content in before.items() if after[path] != content}
    assert changed <= {"last.ckpt", "metrics.json", "report.html"} - {name}


@contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a disk to fill needs the right to mount: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.5, 1.5])
def test_a_disk_that_fills_keeps_the_last_whole_checkpoint(copied, capsys, part):
    """Room for half a checkpoint, and for one while the second is written."""
    size = Path("run/last.ckpt").stat().st_size
    with small_disk(Path("disk"), int(part * size) >> 10):
        assert "disk/run/last.ckpt cannot be written: No space left" in complaint(capsys, *OPTIONS, "--out", "disk/run")
        assert not list(Path("disk/run").glob(".*"))
        if part < 1:
            assert not Path("disk/run/last.ckpt").exists()
            return
        shutil.copytree("disk/run", "moved")
    assert main(["train", "simclr", "--out", "moved", "--resume"]) == 0
    assert json.loads(Path("moved/metrics.json").read_text())["loss"] == losses(copied)


def losses(folder: Path) -> list[float]:
    return json.loads((folder / "run" / "metrics.json").read_text())["loss"]


# What an interrupted run leaves


LEFT = (
    "logs/version_0/metrics.csv", "tensorboard/version_3/events.out.tfevents.1", ".0a1b.partial", "last.ckpt.partial",
    ".metrics.json.partial",
)  # fmt: skip


def test_what_a_run_without_a_checkpoint_left_is_free_for_another(copied, capsys):
    shutil.rmtree("run")
    for name in LEFT:
        (Path("run") / name).parent.mkdir(parents=True, exist_ok=True)
        (Path("run") / name).write_text("old")
    sentence = complaint(capsys, "--out", "run", "--resume")
    assert "run/last.ckpt does not exist; pass the --out of a run that has an epoch behind it, or leave" in sentence
    assert main(["train", "simclr", *OPTIONS, "--out", "run"]) == 0
    assert Path("run/logs/version_0/metrics.csv").read_text() == "old"
    assert Path("run/logs/version_4/metrics.csv").is_file() and Path("run/metrics.json").is_file()
    assert not list(Path("run").glob(".*.partial"))


@pytest.mark.parametrize("name", ["photo.png", "last.ckpt", "metrics.json", ".hidden", "a.partial.txt"])
def test_a_folder_with_anything_else_is_not(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match="is not an empty folder; pass another"):
        train("simclr", tmp_path)
    assert os.listdir(tmp_path) == [name]


KILLS = """
import os, signal, sys, torch, json
from pathlib import Path
from sslkernels.cli import main
from sslkernels.training import logs, measure, module, pictures, run
for name in ("REPEATS", "LOSS_REPEATS", "WARMUPS"):
    setattr(measure, name, 1)
measure.peak_memory = lambda *_: 1
pictures.MOST_POINTS, pictures.QUERIES, pictures.NEIGHBOURS = 50, 1, 2
OPTIONS = {options!r}

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def at_call(owner, name, number, before=True, match=""):
    call, count = getattr(owner, name), [0]
    def counted(*arguments, **keywords):
        count[0] += any(match in str(each) for each in arguments)
        if before and count[0] == number:
            die()
        value = call(*arguments, **keywords)
        if count[0] == number:
            die()
        return value
    setattr(owner, name, counted)

def half_saved(number):
    save, count = torch.save, [0]
    def saved(value, file):
        count[0] += 1
        if count[0] == number:
            file.write(b"half")
            file.flush()
            die()
        save(value, file)
    torch.save = saved

POINTS = {{
    "before the data": lambda: at_call(run, "prepare", 1),
    "in the first row of the table": lambda: at_call(logs.RunLog, "_add_row", 2),
    "between a row and its event": lambda: at_call(logs.RunLog, "_add_event", 3),
    "in the first save": lambda: half_saved(1),
    "before the first rename": lambda: at_call(os, "replace", 1, match="last.ckpt"),
    "after the first rename": lambda: at_call(os, "replace", 1, before=False, match="last.ckpt"),
    "in the first step after it": lambda: at_call(module.LitMethod, "training_step", 5),
    "in the second save": lambda: half_saved(2),
    "before the second rename": lambda: at_call(os, "replace", 2, match="last.ckpt"),
    "in the evaluation": lambda: at_call(run, "encode", 2),
    "in the measurement": lambda: at_call(run, "step_costs", 1),
    "before the metrics": lambda: at_call(os, "replace", 1, match="metrics.json"),
    "between metrics and report": lambda: at_call(run, "write_report", 1),
    "before the report": lambda: at_call(os, "replace", 1, match="report.html"),
}}

def forked(work):
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(work())
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

for place, patch in POINTS.items():
    out = Path(place.replace(" ", "-"))
    def killed():
        patch()
        return main(["train", "simclr", *OPTIONS, "--out", str(out)])
    code = forked(killed)
    if code != -signal.SIGKILL:
        sys.exit(f"{{place}}: not killed but {{code}}")
    resumes = (out / "last.ckpt").exists()
    codes = [forked(lambda: main(["train", "simclr", "--out", str(out), "--resume"]))]
    if not resumes:
        codes.append(forked(lambda: main(["train", "simclr", *OPTIONS, "--out", str(out)])))
    print("POINT", json.dumps([place, resumes, codes, sorted(os.listdir(out))]), flush=True)
"""


@pytest.mark.slow
def test_whatever_moment_a_run_is_killed_at_it_goes_on_to_the_same_losses(copied):
    """Children are forked from one process that has everything imported."""
    done = subprocess.run(
        [sys.executable, "-c", KILLS.format(options=OPTIONS)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    points = [json.loads(line.removeprefix("POINT ")) for line in done.stdout.splitlines() if line.startswith("POINT")]
    assert len(points) == 14
    for place, resumes, codes, left in points:
        assert codes == ([0] if resumes else [2, 0]), (place, done.stderr)
        assert left == ["last.ckpt", "logs", "metrics.json", "report.html", "tensorboard"], place
        found = json.loads((copied / place.replace(" ", "-") / "metrics.json").read_text())["loss"]
        assert found == losses(copied), place
    assert sum(resumes for _, resumes, *_ in points) == 9
    assert "Traceback" not in done.stderr


# Interrupts


STUCK = """
import os, signal, sys, threading, time, torch
from sslkernels import cli
def send():
    for delay in {delays}:
        time.sleep(delay)
        print(time.monotonic(), flush=True)
        os.kill(os.getpid(), signal.{name})
signal.signal(signal.SIGTERM, signal.default_int_handler)
cli.GRACE = {grace}
matrix = torch.rand(6000, 6000)
with cli._ending(lambda number: cli._complain("interrupted.", 128 + number)):
    threading.Thread(target=send, daemon=True).start()
    torch.linalg.svd(matrix)  # Python handles no signal until this minute is over
"""


@pytest.mark.parametrize(
    ("name", "delays", "grace"),
    [("SIGINT", (0.5, 0.2), 60), pytest.param("SIGTERM", (0.5,), 1, marks=pytest.mark.slow)],
)
def test_the_second_interrupt_ends_at_once_whatever_runs(run_python, name, delays, grace):
    """And the first soon, where the main thread is in C++ and cannot hear of it."""
    done = run_python(STUCK.format(name=name, delays=delays, grace=grace), OMP_NUM_THREADS="1")
    assert done.returncode == 128 + getattr(signal, name), done.stderr
    assert done.stderr == "sslkernels: interrupted.\n"
    last = float(done.stdout.split()[-1])
    assert time.monotonic() - last < 10


def start(folder: Path, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, "train", "simclr", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **more,
    )


def wait_for(process: subprocess.Popen[str], path: Path) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def finish(process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "devices"),
    [("INT", 1), ("TERM", 1), ("INT INT", 1), ("TERM INT", 1), ("INT", 2), ("TERM", 2)],
)
def test_an_interrupt_ends_soon_with_the_sentence(copied, signals, devices):
    process = start(copied, *OPTIONS, "--epochs", "100000", "--devices", str(devices), "--out", "other")
    wait_for(process, copied / "other" / "last.ckpt")
    if devices > 1:
        assert listeners_elsewhere(process.pid) == []
    sent = [getattr(signal, f"SIG{name}") for name in signals.split()]
    for number in sent:
        if devices > 1 and number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
    code, _, err = finish(process, seconds=10)
    assert code in [128 + number for number in sent]
    assert err == "sslkernels: interrupted; other/last.ckpt is whole, continue with --out other --resume.\n"
    for _ in range(50):  # nobody is left, once the engine's watcher of shared memory has seen the end
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("processes are left")
    assert torch.load(copied / "other" / "last.ckpt", weights_only=True)["format"] == 1


def listeners_elsewhere(group: int) -> list[str]:
    """The sockets on which processes of ``group`` listen, but for those on loopback."""
    owned = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                owned |= {os.readlink(each) for each in (process / "fd").iterdir()}
        except OSError:
            continue
    found = []
    for table, local in (("tcp", "0100007F"), ("tcp6", "0" * 24 + "01000000")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in owned and not fields[1].startswith(local):
                found.append(fields[1])
    return found


@pytest.mark.slow
def test_a_process_of_several_whose_disk_is_full_is_one_sentence(copied):
    with small_disk(copied / "disk", int(0.5 * Path("run/last.ckpt").stat().st_size) >> 10):
        code, _, err = finish(start(copied, *OPTIONS, "--devices", "2", "--out", "disk/run"))
    assert code == 2 and err.count("\n") == 1, err
    assert "disk/run/last.ckpt cannot be written: No space left on device; no older file was changed." in err


# Output that nobody reads


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


# Data without labels, and data of which a part was not read


@pytest.mark.parametrize("classes", [(), ("all",)])
def test_images_without_classes_are_trained_on_and_the_probes_left_out(copied, capsys, monkeypatch, classes):
    labels = [torch.zeros(count, dtype=torch.int64) if classes else None for count in (48, 12)]
    images = torch.rand(60, 1, 8, 8)
    unlabelled = Dataset("x", classes, images[:48], labels[0], images[48:], labels[1])
    monkeypatch.setattr(resume, "load", lambda *_: unlabelled)
    assert main(["train", "simclr", *OPTIONS, "--out", "other"]) == 0
    out = capsys.readouterr().out
    assert "the probes are left out: they compare classes, and the data has no labels, or one class\n" in out
    metrics = json.loads(Path("other/metrics.json").read_text())
    probes = [probe + of for probe in ("few_shot", "linear", "knn") for of in ("", "_untrained", "_pixels")]
    assert [metrics[name] for name in probes] == [None] * 9 and len(metrics["loss"]) == EPOCHS * STEPS
    text = Path("other/report.html").read_text()
    assert "Not measured: the probes compare classes, and the data has no labels, or one class." in text
    assert text.count("<img") == 4 and "Colours are the labels" not in text and "share the label" not in text


def test_what_was_left_out_of_the_data_is_said(copied, monkeypatch):
    def load_less(*_):
        warnings.warn("npz: small.npz holds what is not read: 'more'.", stacklevel=2)
        return load("npz:small.npz")

    said = []
    monkeypatch.setattr(resume, "load", load_less)
    monkeypatch.setattr(running, "prepare", interrupt)
    for resumes in (False, True):
        with pytest.raises(KeyboardInterrupt):
            train("simclr", "run" if resumes else "other", data="npz:small.npz", resume=resumes, say=said.append)
    assert said == ["warning: npz: small.npz holds what is not read: 'more'."] * 2


# From Python


def test_a_call_from_python_takes_text_for_a_path(copied, monkeypatch):
    said = []
    monkeypatch.setattr(running, "step_costs", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train("simclr", "other", data="npz:small.npz", epochs=np.int64(1), batch_size=16, say=said.append)
    assert Path("other/last.ckpt").is_file() and said[-1] == "measuring a training step"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"out": None}, TypeError, "train: out is None; pass the path of a file or folder."),
        ({"out": b"run"}, TypeError, "train: out is b'run'; pass the path"),
        ({"epochs": 1.5}, ValueError, "train: --epochs is 1.5; pass a whole number of at least 1."),
        ({"epoch": 1}, TypeError, "train: epoch is no option; did you mean epochs?"),
        ({"say": None}, TypeError, "train: say is None; pass something that can be called."),
        ({"resume": "yes"}, TypeError, "train: resume is 'yes'; pass True or False."),
        ({"method": None}, ValueError, "train: method is None; accepted are barlow_twins"),
        ({"data": 3}, TypeError, "pass digits, imagefolder:PATH"),
        ({"lr": "fast"}, TypeError, "train: --lr is a str; pass a number."),
        ({"out": "file"}, FileExistsError, "train: --out is file, which is not an empty folder"),
        ({"out": "file/run"}, ValueError, "file/run, which cannot be created (Not a directory); pass another."),
    ],
)
def test_a_wrong_call_from_python_is_one_sentence(tmp_path, monkeypatch, options, error, words):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    with pytest.raises(error) as caught:
        train(**{"method": "simclr", "out": "run", "epochs": 1, **options})
    assert str(caught.value).startswith("train: ") and words in str(caught.value)
    assert "\n" not in str(caught.value) and os.listdir() == ["file"]


@pytest.mark.parametrize("ask", [lambda: torch.empty(1 << 46), lambda: bytearray(1 << 60)])
def test_what_no_memory_holds_is_one_sentence(copied, capsys, monkeypatch, ask):
    monkeypatch.setattr(running, "prepare", lambda *_: ask())
    assert "there is not enough memory for this; pass smaller images" in complaint(capsys, *OPTIONS, "--out", "other")
    assert not Path("other").exists()


@pytest.mark.parametrize("own", [False, True])
def test_signals_are_the_callers_again_after_a_run(copied, monkeypatch, own):
    """The engine ignores Ctrl-C for good once it has seen a KeyboardInterrupt."""
    before = signal.getsignal(signal.SIGINT)
    mine = (lambda *_: None) if own else before
    monkeypatch.setattr(running.LitMethod, "training_step", interrupt)
    signal.signal(signal.SIGINT, mine)
    try:
        with pytest.raises(KeyboardInterrupt):
            train("simclr", "other", data="npz:small.npz", epochs=1, say=str)
        assert signal.getsignal(signal.SIGINT) is mine and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
