# SPDX-License-Identifier: Apache-2.0
"""Every example in a docstring of the installed package runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import sslkernels
import sslkernels.functional
import sslkernels.losses


def modules() -> list[str]:
    """List all modules but the compiled one and the Triton kernels, which only their backend imports."""
    names = [module.name for module in pkgutil.walk_packages(sslkernels.__path__, "sslkernels.")]
    return sorted(name for name in names if not name.endswith("._C") and "triton" not in name.rsplit(".", 1)[1])


@pytest.mark.parametrize("name", modules())
def test_examples(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if not str(error.name).startswith("sentence_transformers"):
            raise
        pytest.skip(str(error))
    results = doctest.testmod(module)
    assert results.failed == 0


@pytest.mark.parametrize(
    "thing",
    [getattr(m, n) for m in (sslkernels.functional, sslkernels.losses) for n in m.__all__]
    + [getattr(sslkernels, n) for n in ("Center", "MemoryBank", "MemoryQueue", "Prototypes", "use_backend")],
    ids=lambda thing: thing.__name__,
)
def test_public_things_have_an_example(thing: object) -> None:
    text = inspect.getdoc(thing)
    assert text and ">>> " in text
