# SPDX-License-Identifier: Apache-2.0
"""Check that every family has all its parts (files, kernels, oracle, tests, note, case), or says why one is missing."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

import sslkernels
from sslkernels.ops.registry import Family, families

TESTS = Path(__file__).parent
ROOT = TESTS.parent
OPS = Path(sslkernels.__file__).parent / "ops"
FAMILIES = families()

# Parts that each family has. For each part, at least one of the listed files must exist.
PARTS: dict[str, Callable[[Family], list[Path]]] = {
    "schema": lambda family: [OPS / family.name / "schema.py"],
    "reference": lambda family: [OPS / family.name / "reference.py"],
    "gradient": lambda family: [OPS / family.name / "autograd.py"],
    "cpu": lambda family: [OPS / family.name / "cpu.py"],
    "C++": lambda family: [ROOT / "csrc" / "cpu" / family.name / f"{family.name}.cpp"],
    "C++ interface": lambda family: [ROOT / "csrc" / "cpu" / family.name / "kernels.h"],
    "C++ bindings": lambda family: [ROOT / "csrc" / "cpu" / family.name / "bindings.cpp"],
    "triton": lambda family: [OPS / family.name / "triton.py"],
    "Triton kernels": lambda family: [OPS / family.name / "triton_kernels.py"],
    "cuda": lambda family: [OPS / family.name / "cuda.py"],
    "CUDA kernels": lambda family: [ROOT / "csrc" / "cuda" / f"{family.name}.cu"],
    "oracle": lambda family: [TESTS / f"{family.name}_oracle.py"],
    "tests": lambda family: [*(TESTS / family.name).glob("test_*.py"), TESTS / family.name / "test_*.py"],
    "instruction sets": lambda family: [*_containing(family, "available_isas"), TESTS / family.name / "test_isa.py"],
    "interpreter": lambda family: [TESTS / family.name / f"test_{family.name}_interpreter.py"],
    "compiled variants": lambda family: [TESTS / family.name / "triton_variants.py"],
    "GPU test": lambda family: [TESTS / "gpu" / f"test_{family.name}_gpu.py"],
    "note": lambda family: [ROOT / "docs" / "design" / f"{family.name}.md"],
    "case": lambda family: [OPS.parent / "bench" / "cases" / f"{family.name}.py"],
}
# Parts that a family lacks, with the reason. Remove an entry when its part exists.
HOLES = {
    ("ema", "gradient"): "its ops change tensors in place and have none",
    ("similarity", "cuda"): "products of tiles are Triton's work",
    ("similarity", "CUDA kernels"): "products of tiles are Triton's work",
    ("sigmoid", "cuda"): "products of tiles are Triton's work",
    ("sigmoid", "CUDA kernels"): "products of tiles are Triton's work",
    ("attention", "cuda"): "products of tiles are Triton's work",
    ("attention", "CUDA kernels"): "products of tiles are Triton's work",
    ("correlation", "cuda"): "products of tiles are Triton's work",
    ("correlation", "CUDA kernels"): "products of tiles are Triton's work",
    ("prototypes", "Triton kernels"): "those of similarity serve",
    ("prototypes", "compiled variants"): "those of similarity serve",
    ("prototypes", "cuda"): "products of tiles are Triton's work",
    ("prototypes", "CUDA kernels"): "products of tiles are Triton's work",
    ("rows", "cuda"): "Triton moves rows as fast as memory does",
    ("rows", "CUDA kernels"): "Triton moves rows as fast as memory does",
    ("sampled", "cuda"): "Triton reads rows by index as fast as memory gives them",
    ("sampled", "CUDA kernels"): "Triton reads rows by index as fast as memory gives them",
    ("rows", "instruction sets"): "similarity/test_isa.py runs them beside the pairs",
    ("neighbours", "gradient"): "indices have none, and values come without",
    ("neighbours", "cuda"): "products of tiles are Triton's work",
    ("neighbours", "CUDA kernels"): "products of tiles are Triton's work",
    ("sigreg", "cuda"): "sines are arithmetic, which Triton does as well",
    ("sigreg", "CUDA kernels"): "sines are arithmetic, which Triton does as well",
    ("sigreg", "compiled variants"): "sigreg_compile.py compiles its two kernels by itself",
}  # fmt: skip


def _containing(family: Family, text: str) -> list[Path]:
    return [path for path in (TESTS / family.name).glob("test_*.py") if text in path.read_text()]


def test_files_of_tests_have_names_of_their_own() -> None:
    """Folders of tests are no packages, so Python takes two files of one name for one module, and pytest stops."""
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


def test_folders_are_the_families() -> None:
    folders = {path.parent.name for path in OPS.glob("*/__init__.py")}
    assert folders == set(FAMILIES)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_there_or_has_a_reason(family: Family, part: str) -> None:
    """A family that lacks a part fails here, in a checkout, and not when somebody first needs the part."""
    places = PARTS[part](family)
    there = any(path.exists() for path in places)
    reason = HOLES.get((family.name, part))
    wanted = places[0].relative_to(places[0].anchor)
    assert there or reason, f"{family.name} has no {part}: write {wanted}, or say in HOLES why there is none."
    assert not (there and reason), f"{family.name} has a {part} now: its hole ({reason}) is filled."


def test_kernels_are_what_the_family_says(family: Family) -> None:
    files = {name for name in ("cpu", "cuda", "triton") if (OPS / family.name / f"{name}.py").exists()}
    assert files == set(family.kernels)


def test_every_backend_has_every_op_with_the_same_arguments(family: Family) -> None:
    """We read the files and do not import them, as Triton may be absent. ema's update gets pairs on every backend."""
    assert family.ops
    reference = _functions(OPS / family.name / "reference.py")
    schema = _functions(OPS / family.name / "schema.py")
    for function in family.ops:
        if (family.name, function) != ("ema", "update"):
            assert [*reference[function], "backend"] == schema[function], f"reference.{function}"
        for name in family.kernels:
            found = _functions(OPS / family.name / f"{name}.py").get(function)
            assert found == reference[function], f"{name}.{function} takes {found}, reference {reference[function]}."


def test_what_reference_computes_is_documented(family: Family) -> None:
    """The docstring of an op is in the reference, which is the specification, or in the schema."""
    trees = [ast.parse((OPS / family.name / name).read_text()) for name in ("reference.py", "schema.py")]
    functions = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    documented = {node.name for node in functions if ast.get_docstring(node)}
    assert set(family.ops) <= documented, set(family.ops) - documented


def _functions(path: Path) -> dict[str, list[str]]:
    """Map the functions of a file, and those that it imports from its folder, to their arguments."""
    tree, found = ast.parse(path.read_text()), {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = [x.arg for x in node.args.args]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"sslkernels.ops.{path.parent.name}."):
            theirs = path.with_name(f"{(node.module or '').rpartition('.')[2]}.py")
            names = {alias.name for alias in node.names}
            found |= {name: arguments for name, arguments in _functions(theirs).items() if name in names}
    return found


def test_a_family_needs_nothing_but_its_folder(tmp_path: Path, run_python: Callable) -> None:
    """A new family is found by its folder, and its op runs and is registered like the others."""
    folder = tmp_path / "halves"
    folder.mkdir()
    (folder / "__init__.py").write_text("from sslkernels.ops.halves.schema import HALVES, half\n")
    (folder / "schema.py").write_text(
        "from torch import Tensor\n"
        "from sslkernels.ops.registry import family\n"
        "HALVES = family('halves', kernels=())\n"
        "@HALVES.op\n"
        "def half(x: Tensor, backend: str) -> Tensor:\n"
        "    return x.new_empty(x.shape)\n"
    )
    (folder / "reference.py").write_text("def half(x):\n    return x / 2\n")
    done = run_python(
        "import torch\n"
        "from sslkernels import ops\n"
        f"ops.__path__.append({str(tmp_path)!r})\n"
        "from sslkernels.ops.registry import families\n"
        "halves = families()['halves']\n"
        "from sslkernels.ops.halves import half\n"
        "x = torch.arange(4.0)\n"
        "assert halves.choose(x.device, x.dtype, None) == 'reference'\n"
        "assert torch.equal(half(x, 'reference'), x / 2)\n"
        "torch.library.opcheck(torch.ops.sslkernels.halves_half.default, (x, 'reference'))\n"
    )
    assert done.returncode == 0, done.stderr
