# SPDX-License-Identifier: Apache-2.0
"""`sslkernels bench train` writes its records, knows when curves agree, and lets no wrong kernel pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

from sslkernels import data, recipes  # noqa: E402
from sslkernels.bench import train  # noqa: E402
from sslkernels.bench.records import COSTS, fault  # noqa: E402
from sslkernels.cli import main  # noqa: E402
from sslkernels.methods import mae, moco_v2, simclr  # noqa: E402
from sslkernels.recipes import find  # noqa: E402
from sslkernels.state import EMA, MemoryQueue  # noqa: E402
from sslkernels.training import measure, resume  # noqa: E402

STEPS = 4


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Run a command with few repeats in an empty folder: exit code, what was printed, what was complained."""
    monkeypatch.chdir(tmp_path)
    for name in ("REPEATS", "LOSS_REPEATS", "WARMUPS"):
        monkeypatch.setattr(measure, name, 1)

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(["bench", "train", *arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def unmeasured(monkeypatch):
    """Measure no costs, where a test is about the curves."""
    cost = measure.StepCost(100.0, 1.0, 0.1, None, None, 1 << 20)
    monkeypatch.setattr(measure, "costs_of", lambda methods, *others: dict.fromkeys(methods, cost))


@pytest.fixture
def small(here):
    """Run it with few steps on small batches, and return the records too."""

    def call(method: str, *arguments: str) -> tuple[int, list[dict], str, str]:
        out = Path("out.jsonl")
        code, printed, complaint = here(
            method, "--steps", str(STEPS), "--batch-size", "32", "--out", str(out), *arguments
        )
        return code, [json.loads(line) for line in out.read_text().splitlines()], printed, complaint

    return call


@pytest.mark.parametrize("method", ["simclr", "moco_v2"])
def test_records_and_picture_are_written_and_curves_agree(method, small, tmp_path):
    code, records, printed, complaint = small(method)
    assert (code, complaint) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.png"], "a temporary file was left"
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert [record["backend"] for record in records] == ["reference", "cpu", "control"]
    reference, ours, control = records
    for record in records:
        assert fault(record) is None and record["agrees"]
        assert (record["format"], record["method"], record["data"]) == (1, method, "digits")
        assert (record["batch_size"], record["steps"], record["seed"]) == (32, STEPS, 0)
        assert record["control_deviation"] == control["deviation"] > 0
    assert reference["deviation"] == 0 and len(reference["losses"]) == STEPS == len(set(reference["losses"]))
    assert control["losses"] != reference["losses"], "the control did not begin elsewhere"
    for record in (reference, ours):
        assert record["images_per_second"] > 0 and 0 < record["loss_share"] < 1
        assert (record["update_milliseconds"] is None) == (method == "simclr")
    assert "images_per_second" not in control
    assert f"{method} on cpu agrees with reference over {STEPS} steps" in printed
    assert "[4/4]" in printed and "peak memory" in printed
    assert ("update" in printed.split("one step:")[0]) == (method == "moco_v2")


def test_the_same_seed_gives_the_same_losses_and_another_does_not():
    def losses(seed):
        begun = train.prepare("mae", 2, {"seed": seed, "batch_size": 16})
        return train._train(begun.learner, begun, 2, lambda _: None).losses.tolist()

    assert losses(3) == losses(3) != losses(4)


def test_each_run_is_on_its_backend(small, unmeasured, monkeypatch):
    """Loss, teacher and queue run there. A run on the wrong backend would agree with itself."""
    seen: set[tuple[str, str | None]] = set()
    running: list[str] = []
    right, run, update, enqueue = moco_v2.info_nce, train._train, EMA.update, MemoryQueue.enqueue

    def note(name, call):
        def noted(self, *arguments, **keywords):
            seen.add((f"{running[-1]} {name}", self.backend))
            return call(self, *arguments, **keywords)

        return noted

    def loss(*arguments, backend, **keywords):
        seen.add((f"{running[-1]} loss", backend))
        return right(*arguments, backend=backend, **keywords)

    def named(method, *arguments):
        running.append(f"run {len(running) + 1}")
        return run(method, *arguments)

    monkeypatch.setattr(moco_v2, "info_nce", loss)
    monkeypatch.setattr(train, "_train", named)
    monkeypatch.setattr(EMA, "update", note("teacher", update))
    monkeypatch.setattr(MemoryQueue, "enqueue", note("queue", enqueue))
    assert small("moco_v2")[0] == 0
    expected = {("run 2 loss", "cpu"), ("run 2 teacher", None), ("run 2 queue", None)}
    for name in ("run 1", "run 3"):
        expected |= {(f"{name} {part}", "reference") for part in ("loss", "teacher", "queue")}
    assert seen == expected


def scaled_gradient(loss):
    return loss + 0.01 * (loss - loss.detach())


def scaled_loss(loss):
    return loss * (1 + 1e-4)


@pytest.mark.parametrize(
    "break_it, words",
    [(scaled_gradient, "the first gradient is off by 1.0e-02"), (scaled_loss, "the first loss is off")],
)
def test_a_wrong_kernel_is_told_and_written(break_it, words, small, unmeasured, monkeypatch, tmp_path):
    right = simclr.nt_xent

    def wrong(*arguments, backend, **keywords):
        loss = right(*arguments, backend=backend, **keywords)
        return break_it(loss) if backend == "cpu" else loss

    monkeypatch.setattr(simclr, "nt_xent", wrong)
    code, records, printed, complaint = small("simclr")
    assert code == 1 and [record["agrees"] for record in records] == [True, False, True]
    assert "does not agree with reference" in complaint and words in complaint
    assert len(complaint.strip().splitlines()) == 1 and "agrees" not in printed
    assert (tmp_path / "out.png").exists()


def test_a_wrong_gradient_of_one_small_weight_is_told(small, unmeasured, monkeypatch):
    """A mask token's gradient is a tenth of all. An error of 1e-3 hides beside a network, and in Adam's curve too."""
    right = mae.restore_tokens

    def wrong(visible, restore, mask_token, *, backend, **keywords):
        if backend == "cpu":
            mask_token = mask_token + 1e-3 * (mask_token - mask_token.detach())
        return right(visible, restore, mask_token, backend=backend, **keywords)

    monkeypatch.setattr(mae, "restore_tokens", wrong)
    code, _, _, complaint = small("mae")
    assert code == 1 and "the first gradient is off by 1.0e-03" in complaint


def test_a_queue_that_is_not_filled_is_told(small, unmeasured, monkeypatch):
    right = MemoryQueue.enqueue

    def forgets(self, *arguments, **keywords):
        if self.backend == "reference":
            right(self, *arguments, **keywords)

    monkeypatch.setattr(MemoryQueue, "enqueue", forgets)
    code, _, _, complaint = small("moco_v2", "--steps", "12")
    assert code == 1 and "the curve is off" in complaint


def test_a_teacher_that_stands_still_is_told(small, unmeasured, monkeypatch):
    """Loss and gradient of the first step are right. Only the curve shows it."""
    right = EMA.update

    def forgets(self, *arguments):
        if self.backend == "reference":
            right(self, *arguments)

    monkeypatch.setattr(EMA, "update", forgets)
    code, records, _, complaint = small("byol", "--steps", "12")
    assert code == 1 and not records[1]["agrees"]
    assert "the curve is off" in complaint and "the first" not in complaint


def test_slower_and_more_memory_are_told():
    def record(backend, images_per_second, loss, memory):
        return {
            "backend": backend,
            "batch_size": 10,
            "images_per_second": images_per_second,
            "loss_milliseconds": loss,
            "update_milliseconds": None,
            "peak_memory_bytes": memory,
        }

    control = {"backend": "control"}
    lines = train.remarks([record("reference", 100.0, 1.0, 100), record("cpu", 50.0, 0.5, 150), control])
    assert [line.split("]")[0] + "]" for line in lines] == ["[red]", "[red]"]
    assert "slower" in lines[0] and "a step on cpu takes 2.00x" in lines[0]
    assert "more memory" in lines[1] and "1.50x" in lines[1]
    assert train.remarks([record("reference", 100.0, 1.0, None), record("cpu", 100.0, 1.0, None), control]) == []


def test_deviations_pass_through_zero_and_keep_a_nan():
    assert train.deviations([1.0, 0.1, -2.2], [1.0, 0.0, -2.0]) == pytest.approx([0.0, 0.1, 0.1])
    far = train._distances(
        train._Curve(torch.tensor([1.0, float("nan")]), [torch.ones(1)]), train._Curve(torch.ones(2), [torch.ones(1)])
    )
    assert train._too_far({**far, "allowed_deviation": 1.0}) == ["the curve is off by nan, allowed is 1.0e+00"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("dinosaur",), "method is 'dinosaur'; accepted are action_simclr"),
        (("simclr", "--backend", "fast"), "--backend is 'fast'"),
        (("simclr", "--backend", "reference"), "the backend is reference"),
        (("simclr", "--steps", "0"), "--steps is 0"),
        (("simclr", "--batch-size", "1"), "--batch-size is 1"),
        (("simclr", "--batch-size", "9999"), "pass at most 1438"),
        (("simclr", "--data", "cifar"), "data is 'cifar'"),
        (("simclr", "--out", "no/such/folder.jsonl"), "does not exist"),
        (("simclr", "--out", "curves.png"), "the name of the picture"),
        ((), "METHOD"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, words, here, tmp_path):
    code, printed, complaint = here(*arguments)
    assert (code, printed) == (2, "") and words in complaint
    assert len(complaint.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_no_file(here, monkeypatch, tmp_path):
    run = train._train

    def interrupted(*arguments):
        run(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "_train", interrupted)
    code, _, complaint = here("simclr", "--steps", "1", "--batch-size", "8")
    assert code == 130 and "nothing was written" in complaint
    assert list(tmp_path.iterdir()) == []


def test_all_leaves_out_what_the_data_lacks_and_keeps_what_is_done(here, unmeasured, monkeypatch, tmp_path):
    names = ("geo_moco", "simclr", "action_simclr", "simsiam")
    monkeypatch.setattr(recipes, "all_recipes", lambda: map(find, names))

    def load(spec, *_):
        if spec.startswith("turns"):
            raise FileNotFoundError("data is 'turns' and openmoji is missing; pip install it.")
        return images

    images = data.load("digits")
    monkeypatch.setattr(resume, "load", load)
    code, printed, complaint = here("all", "--steps", "1", "--out", "all.jsonl")
    assert code == 0, complaint
    written = [json.loads(line)["method"] for line in Path("all.jsonl").read_text().splitlines()]
    assert written == ["simclr"] * 3 + ["simsiam"] * 3
    assert "geo_moco is left out: train: geo_moco needs place" in printed
    assert "action_simclr is left out: data is 'turns'" in printed
    monkeypatch.setattr(recipes, "all_recipes", lambda: map(find, ("geo_moco", "action_simclr")))
    code, _, complaint = here("all", "--steps", "1", "--out", "none.jsonl")
    assert code == 2 and "no method's data is here" in complaint and not Path("none.jsonl").exists()


def test_help_has_an_example_and_names_the_methods(here):
    code, text, _ = here("--help")
    assert code == 0 and "example:\n  sslkernels bench train" in text and "moco_v2" in text


@pytest.mark.parametrize("name", ["losses", "images_per_second", "device", "agrees", "kind"])
def test_a_record_without_a_part_is_not_whole(name):
    costs = dict.fromkeys(COSTS, 1.0)
    whole = {
        "format": 1, "kind": "train", "method": "simclr", "data": "digits", "batch_size": 8, "steps": 2, "seed": 0,
        "backend": "cpu",
        "losses": [2.0, 1.0], "first_loss_deviation": 0.0, "first_gradient_deviation": 0.0, "deviation": 0.0,
        "control_deviation": 0.0, "allowed_deviation": 0.0, "agrees": True, "threads": 2,
        "date": "2026-01-01T00:00:00Z", "commit": None,
        "device": {"name": "a", "type": "cpu", "isa": "b"}, "versions": {"torch": "2"}, **costs,
    }  # fmt: skip
    assert fault(whole) is None
    assert fault({key: value for key, value in whole.items() if key != name}) is not None
    assert fault({**whole, "losses": [1.0]}) == "losses"
