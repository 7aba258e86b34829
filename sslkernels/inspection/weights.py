# SPDX-License-Identifier: Apache-2.0
"""Reads weights for the backbones of a modality: safetensors, or a state dict that torch.save wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslkernels.files import cause_of, open_regular
from sslkernels.recipes import Encoder, Modality

# Names under which the weights of a model lie in a dictionary of more.
HOLDERS = ("state_dict", "model")


def backbones(modality: Modality) -> dict[str, Encoder]:
    """The backbones that samples of ``modality`` have, by the names of the functions that build them."""
    return {encoder.build.__name__: encoder for encoder in modality.encoders.values()}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict; nothing in the file is run."""
    try:
        with open_regular(path) as file:
            found = _safetensors(file.read()) if path.suffix == ".safetensors" else _torch(file)
    except ModuleNotFoundError as error:
        raise ValueError("evaluate: safetensors is missing; pip install safetensors.") from error
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(
            f"evaluate: {path} cannot be read as weights ({_first_line(error)}); pass a .safetensors file, or a state "
            "dict that torch.save wrote."
        ) from error
    if not isinstance(found, Mapping) or not found or not all(isinstance(each, Tensor) for each in found.values()):
        raise ValueError(f"evaluate: {path} holds no dictionary of tensors by name; pass a model's state_dict().")
    return {str(name): value for name, value in found.items()}


def _safetensors(content: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(content)


def _torch(file: Any) -> Any:
    found = torch.load(file, map_location="cpu", weights_only=True)
    for name in HOLDERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            return found[name]
    return found


def load_weights(encoder: nn.Module, state: Mapping[str, Tensor], path: Path, backbone: str) -> None:
    """Load the weights of ``encoder`` out of ``state``, where their names may all have one prefix before them."""
    built = encoder.state_dict()
    first = next(iter(built))
    prefixes = [name.removesuffix(first) for name in state if name.endswith(first)]
    own = next((prefix for prefix in prefixes if all(prefix + name in state for name in built)), None)
    if own is None:
        lacking = next((name for name in built if name not in state), first)
        raise ValueError(
            f"evaluate: {path} lacks {lacking} of the backbone {backbone}; pass the --backbone that it is for, or "
            "its arguments with --set."
        )
    for name, value in built.items():
        if state[own + name].shape != value.shape:
            raise ValueError(
                f"evaluate: {own + name} of {path} has shape {tuple(state[own + name].shape)} and the backbone "
                f"{backbone} {tuple(value.shape)}; pass its arguments with --set, and --data of its kind."
            )
    encoder.load_state_dict({name: state[own + name] for name in built})


def _first_line(error: Exception) -> str:
    """The cause in a few words: torch's refusals of pickles go on for a page."""
    return cause_of(error).partition(". ")[0][:120]
