# SPDX-License-Identifier: Apache-2.0
"""`import sslkernels` is quick, and needs no extras, no device and no process group."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import sslkernels


def test_import_takes_less_than_a_second_after_torch(run_python: Callable) -> None:
    done = run_python(
        "import time, torch\n"
        "start = time.process_time()\n"  # counts our own work, and no other process
        "import sslkernels\n"
        "print(time.process_time() - start)"
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.0


def test_import_is_light_and_touches_no_device(run_python: Callable) -> None:
    done = run_python(
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import sslkernels, sslkernels.functional, sslkernels.losses\n"
        "heavy = ('triton', 'lightning', 'kornia', 'sklearn', 'cupy', 'matplotlib', 'tensorboard', 'rich', 'PIL',\n"
        "         'sentence_transformers', 'transformers')\n"
        "loaded = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "assert not loaded & set(heavy), loaded & set(heavy)\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert not torch.distributed.is_available() or not torch.distributed.is_initialized()\n"
        "import threading\n"
        "assert threading.active_count() == 1\n"
        "sslkernels.functional.nt_xent(torch.eye(3), torch.eye(3), group='world')\n"
        "assert 'triton' not in sys.modules or 'triton' in before\n"
        "print(sslkernels.__version__)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == sslkernels.__version__


@pytest.mark.parametrize(
    "missing", ["triton", "cupy", "lightning", "kornia", "sklearn", "matplotlib", "sentence_transformers"]
)
def test_works_without_the_extras(run_python: Callable, missing: str) -> None:
    done = run_python(
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"  # importing it now raises ImportError
        "import torch, sslkernels\n"
        "print(sslkernels.functional.nt_xent(torch.eye(3), torch.eye(3)).isfinite().item())"
    )
    assert done.stdout.split() == ["True"], done.stderr


def test_drop_ins_for_a_package_that_is_missing_say_so(run_python: Callable) -> None:
    done = run_python(
        "import sys\n"
        "sys.modules['sentence_transformers'] = None\n"
        "import sslkernels.losses\n"
        "from sslkernels.losses.sentence_transformers import MultipleNegativesRankingLoss"
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]  # the name of the part that Python looked for stands between
    assert last.startswith("ImportError: sslkernels.losses.sentence_transformers: sentence_transformers")
    assert last.endswith(" is missing; pip install 'sentence-transformers>=6'.")


def test_works_without_torch_distributed(run_python: Callable) -> None:
    """On some platforms PyTorch is built like this: `torch.distributed` is a stub that says it is not available."""
    done = run_python(
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch.distributed':\n"
        "            for part in ('_c10d_init', '_rpc_init', '_dist_autograd_init'):\n"
        "                delattr(sys.modules['torch._C'], part)\n"
        "sys.meta_path.insert(0, Without())\n"
        "import torch\n"
        "assert not torch.distributed.is_available() and not hasattr(torch.distributed, 'is_initialized')\n"
        "import sslkernels as sk, sslkernels.functional as SF\n"
        "from sslkernels import losses, methods\n"
        "z = torch.eye(4)\n"
        "SF.nt_xent(z, z, group='world'), SF.vicreg(z, z, group='world'), SF.sigreg(z, group='world')\n"
        "losses.VCRegLoss()(z), losses.NTXentLoss(memory_bank_size=(8, 4))(z.requires_grad_(), z)\n"
        "sk.MemoryQueue(8, 4).enqueue(z, group='world'), sk.EMA(torch.nn.Linear(2, 2)).update(torch.nn.Linear(2, 2))\n"
        "sk.MemoryBank(4, 4).update(torch.arange(4), z.detach(), group='world')\n"
        "center = sk.Center(4)\n"
        "center.collect(z), center.update(z.detach(), group='world')\n"
        "for call in (lambda: losses.NTXentLoss(gather_distributed=True), lambda: SF.nt_xent(z, z, group=3),\n"
        "             lambda: losses.ClipLoss(world_size=2)(z, z, 1.0)):\n"
        "    try:\n"
        "        call()\n"
        "    except (TypeError, ValueError) as error:\n"
        "        print(error)\n"
    )
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first.startswith("NTXentLoss: gather_distributed is True and this torch has no torch.distributed; pass")
    assert second.startswith("group is a int") and third.startswith("ClipLoss: world_size is 2 and no process group")


def test_a_missing_compiled_module_is_an_import_error_that_says_so(run_python: Callable, tmp_path: Path) -> None:
    """An interpreter started inside the repository would see this: the source folder without its compiled part."""
    source = Path(sslkernels.__file__).parent
    shutil.copytree(source, tmp_path / "sslkernels", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    done = run_python(
        "import sys\n"
        "sys.meta_path = [finder for finder in sys.meta_path if 'Redirect' not in type(finder).__name__]\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import sslkernels"
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and "sslkernels._C is missing" in last and "pip install" in last


def test_typing_information_is_shipped() -> None:
    package = Path(sslkernels.__file__).parent
    assert (package / "py.typed").exists() and (package / "_C.pyi").exists()


def test_public_names() -> None:
    assert set(sslkernels.__all__) >= {
        "Center",
        "MemoryBank",
        "MemoryQueue",
        "Prototypes",
        "functional",
        "info",
        "losses",
        "use_backend",
        "__version__",
    }
    for module in (sslkernels, sslkernels.functional, sslkernels.losses):
        assert all(hasattr(module, name) for name in module.__all__)
