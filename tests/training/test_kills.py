# SPDX-License-Identifier: Apache-2.0
"""A killed run can be continued to the same losses, whenever it was killed and whatever it left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning")

from small_runs import OPTIONS, complaint, losses  # noqa: E402

from sslkernels.cli import main  # noqa: E402
from sslkernels.training import train  # noqa: E402

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
    """The runs are forked from one process that has everything imported."""
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
