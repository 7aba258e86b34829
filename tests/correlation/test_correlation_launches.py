# SPDX-License-Identifier: Apache-2.0
"""Count what a training step of Barlow Twins and of VICReg launches on the Triton backend.

The file runs itself again under Triton's interpreter. There a hook sees each launch of a Triton kernel, and a dispatch
mode each PyTorch op that would launch a kernel: all but views, empty tensors, and one number that the host reads here
where a GPU's would not be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from interpreted import INTERPRETED, run_interpreted

if not INTERPRETED:

    def test_launches(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow and not gpu", tmp_path)

else:
    from torch.utils._python_dispatch import TorchDispatchMode
    from triton.runtime.interpreter import InterpretedFunction

    import sslkernels.functional as SF
    from sslkernels.ops import registry
    from sslkernels.ops.correlation import triton_loss, triton_steps

    MOST = 12

    class Launches(TorchDispatchMode):
        """Write down what would be launched. What a launch itself does on the host is not counted."""

        def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
            super().__init__()
            self.seen: list[str] = []
            self.inside = False
            launch, multiplied = InterpretedFunction.run, triton_loss._multiplied

            def counted(kernel: Any, *arguments: Any, **options: Any) -> Any:
                return self.once(kernel.fn.__name__, launch, kernel, *arguments, **options)

            def one_product(*arguments: Any) -> Any:
                return self.once("cublas", multiplied, *arguments)

            monkeypatch.setattr(InterpretedFunction, "run", counted)
            monkeypatch.setattr(triton_loss, "_multiplied", one_product)

        def once(self, name: str, function: Any, *arguments: Any, **options: Any) -> Any:
            self.seen.append(name)
            self.inside = True
            try:
                return function(*arguments, **options)
            finally:
                self.inside = False

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # noqa: ANN001, ANN204
            name = function.name().removeprefix("aten::")
            if not (self.inside or function.is_view or "empty" in name or name == "_local_scalar_dense"):
                self.seen.append(name)
            return function(*arguments, **(keywords or {}))

    @pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float32), ids=str)
    @pytest.mark.parametrize("side", ("samples", "features"))
    @pytest.mark.parametrize("loss", ("barlow_twins", "vicreg"))
    def test_a_step(loss: str, side: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(triton_steps, "SHORTEST_PART", 16)
        for module in (triton_steps, triton_loss):  # every sum is split
            monkeypatch.setattr(module, "processors", lambda _: 1 << 20)
        monkeypatch.setattr(registry, "is_plain", lambda: True)  # the mode watches, and nothing else does
        views = [z.to(dtype).requires_grad_() for z in torch.randn(2, 70, 40).unbind()]
        with Launches(monkeypatch) as launches:
            value = getattr(SF, loss)(*views, side=side, backend="triton")
            value.backward(
                torch.full((), 0.5)
            )  # a gradient of 1, which autograd fills in, would be skipped on the host
        print(len(launches.seen), launches.seen)
        products = [name for name in launches.seen if name in ("cublas", "matrix_kernel", "backward_kernel")]
        assert products == (["matrix_kernel", *2 * ["backward_kernel"]] if dtype == torch.float32 else 3 * ["cublas"])
        assert len(launches.seen) <= MOST, launches.seen
