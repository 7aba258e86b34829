# SPDX-License-Identifier: Apache-2.0
"""Runs on several machines: two torchrun agents on loopback stand for them. DDP and FSDP2 give one machine's curve."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

from small_methods import small_data as noise  # noqa: E402
from small_methods import small_numbers  # noqa: E402
from small_runs import COMMAND, complaint, small_data  # noqa: E402

from sslkernels.methods import METHODS  # noqa: E402
from sslkernels.recipes import available, find  # noqa: E402
from sslkernels.training.devices import Launched  # noqa: E402
from sslkernels.training.sharded import check_shareable  # noqa: E402

# byol's curve is the calmest: its teacher moves little, and nothing is divided by a temperature.
OPTIONS = ("byol", "--data", "npz:small.npz", "--epochs", "2", "--batch-size", "12", "--threads", "1")
SMALL = ("--set", "widths=4,8", "blocks=1,1", "hidden_dim=16", "projection_dim=8")
TORCHRUN = Path(sys.executable).with_name("torchrun")


def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def on_two_machines(folder: Path, *arguments: str) -> list[tuple[int, str, str]]:
    """Start the command by two torchrun agents; their exit codes, outputs and errors."""
    where = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port()}", "--rdzv-id", "test")
    agents = [
        subprocess.Popen(
            [TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", *where, "--no-python", COMMAND, "train", *arguments],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        said = [agent.communicate(timeout=150) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    return [(agent.returncode, *each) for agent, each in zip(agents, said, strict=True)]


def on_one_machine(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [COMMAND, "train", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def losses(folder: Path) -> list[float]:
    return json.loads((folder / "metrics.json").read_text())["loss"]


@pytest.mark.slow
def test_two_machines_give_the_curve_of_one_and_resume_on_one_and_on_three_devices(tmp_path):
    small_data(tmp_path / "small.npz")
    on_one_machine(tmp_path, *OPTIONS, *SMALL, "--devices", "2", "--out", "one")
    expected = losses(tmp_path / "one")
    for strategy in ("ddp", "fsdp2"):
        out = tmp_path / strategy
        ends = on_two_machines(tmp_path, *OPTIONS, *SMALL, "--strategy", strategy, "--out", strategy)
        assert [code for code, _, _ in ends] == [0, 0], ends
        torch.testing.assert_close(torch.tensor(losses(out)), torch.tensor(expected), rtol=1e-3, atol=0)
        assert sorted(os.listdir(out)) == ["last.ckpt", "logs", "metrics.json", "report.html", "tensorboard"]
        # One process speaks for all, and writes for all.
        assert sorted("report: " in said for _, said, _ in ends) == [False, True]
        assert len(list((out / "logs").glob("version_*"))) == 1
        config = json.loads((out / "metrics.json").read_text())["config"]
        assert (config["nodes"], config["devices"], config["strategy"]) == (2, 1, strategy)
    # A checkpoint of two shared halves is whole: one device continues it under DDP, three share it anew.
    more = ("byol", "--out", "fsdp2", "--resume", "--nodes", "1")
    on_one_machine(tmp_path, *more, "--devices", "1", "--strategy", "ddp", "--epochs", "3")
    assert losses(tmp_path / "fsdp2")[:8] == pytest.approx(expected, rel=1e-3) and len(losses(tmp_path / "fsdp2")) == 12
    on_one_machine(tmp_path, *more, "--devices", "3", "--strategy", "fsdp2", "--epochs", "4")
    found = losses(tmp_path / "fsdp2")
    assert len(found) == 16 and all(0 < each < 8 for each in found)  # two cosines, each twice


@pytest.mark.slow
def test_a_mistake_ends_both_machines_in_sentences(tmp_path):
    small_data(tmp_path / "small.npz")
    for code, out, err in on_two_machines(tmp_path, *OPTIONS, "--devices", "3", "--out", "run"):
        assert code != 0 and "Traceback (most recent call last)" not in out
        assert "--devices is 3 and the launcher started 1 processes on each of 2 machines; leave --devices out" in err
    assert not (tmp_path / "run").exists()


def test_several_machines_need_a_launcher(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_data(Path("small.npz"))
    sentence = complaint(capsys, "--data", "npz:small.npz", "--nodes", "2", "--batch-size", "12", "--out", "run")
    assert "--nodes is 2 and nobody started this command on several machines; start it with torchrun" in sentence
    assert not Path("run").exists()


SLURM = {"SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_NNODES": "2"}
ELASTIC = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("variables", "nodes", "expected"),
    [
        ({}, 2, None),
        (SLURM, None, None),  # an interactive shell of a cluster
        (SLURM, 2, (5, 2, 4)),
        (ELASTIC, None, (3, 2, 2)),
        ({**SLURM, **ELASTIC}, 2, (3, 2, 2)),
    ],
)
def test_the_launcher_is_read_from_its_environment(monkeypatch, variables, nodes, expected):
    for name in (*SLURM, *ELASTIC):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = Launched.read(nodes)
    assert (None if found is None else (found.rank, found.nodes, found.devices)) == expected


def test_options_that_contradict_the_launcher_are_refused():
    launched = Launched(0, 2, 4, type)
    assert launched.options({"devices": None, "lr": 1.0}) == {"devices": 4, "nodes": 2, "lr": 1.0}
    assert launched.options({"devices": 4})["nodes"] == 2
    with pytest.raises(ValueError, match="--nodes is 3 and the launcher started 4 processes on each of 2 machines"):
        launched.options({"nodes": 3})


@pytest.mark.parametrize("name", available())
def test_only_methods_with_the_curve_of_ddp_share_their_weights(name):
    """The others were measured to go apart, fail in their first step, or were never compared."""
    recipe = find(name)
    data = noise(recipe.modality.name)
    method = recipe.build(data, {**recipe.fitted(data), **small_numbers(recipe)})
    compared = ("simclr", "byol", "simsiam", "barlow_twins", "vicreg", "moco_v3")
    if recipe.term is None and not recipe.parts and recipe.method in [METHODS[each] for each in compared]:
        check_shareable(name, method)
        return
    why = f"({name} has a .*, which fsdp2 cannot share|nobody has compared {name} with ddp under it); pass ddp"
    with pytest.raises(ValueError, match=f"--strategy is fsdp2 and {why}"):
        check_shareable(name, method)
