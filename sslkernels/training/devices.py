# SPDX-License-Identifier: Apache-2.0
"""Runs on several devices. On one machine processes meet in a file and talk over loopback, so nobody can listen.

On several machines torchrun or Slurm starts the command once for each device, and tells the processes where to meet.
"""

from __future__ import annotations

import builtins
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from sslkernels.training.config import TrainConfig
from sslkernels.training.sharded import Sharding

# Variables that torchrun, Slurm and Lightning set.
SCHEDULED = (
    "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "JSM_NAMESPACE_RANK",
)  # fmt: skip


@dataclass(frozen=True)
class Launched:
    """The words of a launcher about this process, which it has started with others."""

    rank: int
    nodes: int
    devices: int
    by: type[ClusterEnvironment]

    @classmethod
    def read(cls, nodes: int | None) -> Launched | None:
        """Read the environment; None where this process is alone.

        torchrun's is always meant. Slurm's is also there in an interactive shell, and is meant where ``nodes``, the
        option ``--nodes``, asks for several machines.
        """
        found = os.environ
        if dist.is_torchelastic_launched():
            ranks, local = int(found["WORLD_SIZE"]), int(found["LOCAL_WORLD_SIZE"])
            return cls(int(found["RANK"]), ranks // local, local, TorchElasticEnvironment)
        if isinstance(nodes, int) and nodes > 1 and "SLURM_NTASKS" in found and "SLURM_PROCID" in found:
            ranks, machines = int(found["SLURM_NTASKS"]), int(found.get("SLURM_NNODES", "1"))
            return cls(int(found["SLURM_PROCID"]), machines, ranks // machines, SLURMEnvironment)
        return None

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a run with those that the launcher decides; a ValueError if ``given`` says otherwise."""
        own = {"nodes": self.nodes, "devices": self.devices}
        for name, value in own.items():
            if given.get(name) not in (None, value):
                raise ValueError(
                    f"train: --{name} is {given[name]} and the launcher started {self.devices} processes on each of "
                    f"{self.nodes} machines; leave --{name} out, or start as many."
                )
        return {**given, **own}


class OneMachine(LightningEnvironment):
    """Tells Lightning of one machine, whatever a scheduler has set, and of no port, since processes meet in a file."""

    @property
    def main_port(self) -> int:
        return 0


class Loopback(DDPStrategy):
    """Lightning's DDP with spawned processes. Its usual meeting place is a TCP port open to the whole network."""

    def __init__(self, folder: str, threads: int | None) -> None:
        super().__init__(start_method="spawn")
        self.meeting = os.path.join(folder, "meeting")
        self.threads = threads

    def setup_distributed(self) -> None:
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        for library in ("GLOO", "NCCL"):
            os.environ[f"{library}_SOCKET_IFNAME"] = "lo"
        self.set_world_ranks()
        backend = "nccl" if self.root_device.type == "cuda" else "gloo"
        store = dist.FileStore(self.meeting, self.world_size)
        dist.init_process_group(backend, store=store, rank=self.global_rank, world_size=self.world_size)
        super().setup_distributed()  # this finds the group already made


class LoopbackSharding(Loopback, Sharding):
    """Shares weights among spawned processes."""


class EndWithParent(Callback):
    """Lets each signal end a process of several at once; the first process decides what a signal means."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)


@contextmanager
def strategy_of(config: TrainConfig, launched: Launched | None) -> Iterator[str | DDPStrategy]:
    """Give Lightning's strategy. Errors of its processes come out as their own sentences; no process is left behind."""
    sharded = config.strategy == "fsdp2"
    if launched is not None:
        try:
            yield Sharding() if sharded else DDPStrategy()
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        return
    if config.devices == 1 and not sharded:
        with _alone():
            yield "auto"
        return
    with _alone(), tempfile.TemporaryDirectory(prefix="sslkernels-") as folder:
        strategy = (LoopbackSharding if sharded else Loopback)(folder, config.threads)
        try:
            yield strategy
        except ProcessRaisedException as error:
            # The last line is the process's own error. If it is of these kinds, its text is a sentence for the user.
            name, _, sentence = str(error).rstrip().rpartition("\n")[2].partition(": ")
            kind = getattr(builtins, name, None)
            if isinstance(kind, type) and issubclass(kind, (OSError, ValueError, TypeError)):
                raise kind(sentence) from error
            raise
        except ProcessExitedException as error:
            end = error.signal_name or f"exit code {error.exit_code}"
            raise ChildProcessError(
                f"train: the process of device {error.error_index} was ended by {end}; was there too little memory? "
                "Continue with --resume, or lower --batch-size."
            ) from error
        except RuntimeError as error:
            if "</torch_" not in str(error):  # such a name is a file in shared memory
                raise
            raise OSError(
                "train: the images do not fit into shared memory, through which the processes of several devices get "
                "them; enlarge /dev/shm, or pass --devices 1."
            ) from error
        finally:
            if strategy.launcher is not None:
                strategy.launcher.kill(signal.SIGKILL)


@contextmanager
def _alone() -> Iterator[None]:
    """Hide a scheduler's variables: Lightning would take this process for one of a cluster, and log nothing."""
    before = {name: os.environ.pop(name) for name in SCHEDULED if name in os.environ}
    rank_zero_only.rank = 0
    try:
        yield
    finally:
        for name in SCHEDULED:
            os.environ.pop(name, None)
        os.environ.update(before)
