# SPDX-License-Identifier: Apache-2.0
"""Base classes of our modules: they refuse TorchScript, and some remember tensors from step to step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, NoReturn, TypeVar

import torch
from torch import nn

from sslkernels.distributed import GroupLike, broadcast, shard_of

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Self = TypeVar("_Self", bound="Remembering")


def unscriptable(function: _Function) -> _Function:
    """Make torch.jit.script refuse ``function``, alone or called from scripted code."""
    function.__prepare_scriptable__ = partial(_refuse, function.__name__)  # type: ignore[attr-defined]
    return function


class Module(nn.Module):
    """A module that torch.jit.script refuses, alone or inside a scripted one."""

    def __prepare_scriptable__(self) -> NoReturn:
        _refuse(type(self).__name__)


def _refuse(name: str) -> NoReturn:
    raise TypeError(f"torch.jit.script: {name} runs kernels that TorchScript cannot read; use torch.compile.")


class Remembering(Module):
    """A module with tensors that outlive a step; ``remembered`` holds their names.

    They are saved, loaded, moved and cast as buffers are. They are no buffers, because DistributedDataParallel writes
    the first rank's buffers over those of all other ranks at every forward. Without a group each rank keeps its own.
    """

    remembered: ClassVar[tuple[str, ...]]
    _agreed = False

    @torch.no_grad()
    def agree(self, group: GroupLike) -> None:
        """Give every rank of ``group`` what its first rank remembers, once after the module was made or loaded.

        Ranks with different seeds start with different random rows, and often only one of them reads the checkpoint.
        """
        if group is None or self._agreed:
            return
        tensors = [getattr(self, name) for name in self.remembered]
        shapes = [tuple(tensor.shape) for tensor in tensors]
        shard = shard_of(group, f"{type(self).__name__}, new or just loaded", tensors[0], shapes=shapes)
        if shard.ranks == 1:
            return
        for tensor in tensors:
            tensor.copy_(broadcast(tensor, shard))
        self._agreed = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take tensors of one's own: those that come from the process that starts the ranks are shared by them all."""
        super().__setstate__(state)
        for name in self.remembered:
            tensor = self.__dict__[name]
            if tensor is not None and tensor.device.type == "cpu" and tensor.is_shared():
                self.__dict__[name] = tensor.clone()

    @contextmanager
    def _as_buffers(self) -> Iterator[None]:
        """Show the tensors to torch as buffers while it saves, loads or moves them."""
        for name in self.remembered:
            self._buffers[name] = self.__dict__.pop(name)
        try:
            yield
        finally:
            for name in self.remembered:
                self.__dict__[name] = self._buffers.pop(name)

    def _apply(self: _Self, function: Any, recurse: bool = True) -> _Self:
        with self._as_buffers():
            return super()._apply(function, recurse)

    def _save_to_state_dict(self, *arguments: Any) -> None:
        with self._as_buffers():
            super()._save_to_state_dict(*arguments)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        with self._as_buffers():
            super()._load_from_state_dict(*arguments)
        self._agreed = False
