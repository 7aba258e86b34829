# SPDX-License-Identifier: Apache-2.0
"""Runs on several devices of one machine: processes meet in a file and talk over loopback, so nobody can listen."""

from __future__ import annotations

import builtins
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

# Variables that torchrun, Slurm and Lightning set.
SCHEDULED = (
    "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "JSM_NAMESPACE_RANK",
)  # fmt: skip


class OneMachine(LightningEnvironment):
    """Tells Lightning of one machine, whatever a scheduler has set, and of no port, since processes meet in a file."""

    @property
    def main_port(self) -> int:
        return 0


class LoopbackDDP(DDPStrategy):
    """Lightning's DDP with spawned processes. Its usual meeting place is a TCP port open to the whole network."""

    def __init__(self, folder: str) -> None:
        super().__init__(start_method="spawn")
        self.meeting = os.path.join(folder, "meeting")

    def setup_distributed(self) -> None:
        for library in ("GLOO", "NCCL"):
            os.environ[f"{library}_SOCKET_IFNAME"] = "lo"
        self.set_world_ranks()
        backend = "nccl" if self.root_device.type == "cuda" else "gloo"
        store = dist.FileStore(self.meeting, self.world_size)
        dist.init_process_group(backend, store=store, rank=self.global_rank, world_size=self.world_size)
        super().setup_distributed()  # this finds the group already made


class EndWithParent(Callback):
    """Lets each signal end a process of several at once; the first process decides what a signal means."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)


@contextmanager
def strategy_of(devices: int) -> Iterator[str | DDPStrategy]:
    """Give Lightning's strategy. Errors of its processes come out as their own sentences; no process is left behind."""
    if devices == 1:
        with _alone():
            yield "auto"
        return
    with _alone(), tempfile.TemporaryDirectory(prefix="sslkernels-") as folder:
        strategy = LoopbackDDP(folder)
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
