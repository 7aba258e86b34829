# SPDX-License-Identifier: Apache-2.0
"""Imports run downwards through the layers of the package, and never in a circle.

An import inside a function counts as much as one at the top of a file: it only hides the circle until it is called.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import sslkernels

# Each layer imports from its own and from those below it. "" is sslkernels/__init__.py, the rest are files and folders.
LAYERS = (
    ("__main__",),
    ("cli", "listing"),
    ("bench", "device", "inspection"),
    ("training",),
    ("recipes",),
    ("methods",),
    ("terms",),
    ("models", "data", "evaluation"),
    ("",),
    ("losses",),
    ("prototypes", "state", "teacher"),
    ("functional",),
    ("ops",),
    ("modules", "schedules"),
    ("distributed", "backends", "ring"),
    ("cuda", "agreement", "capture", "gpu", "_C"),
    ("arguments", "discovery", "drawing", "files", "html", "peak_memory", "renamed", "settings", "terminal"),
)
LAYER = {name: height for height, names in enumerate(reversed(LAYERS)) for name in names}
# Imports that are allowed nevertheless, each with its reason.
ALLOWED = {
    ("sslkernels.ops.check", "sslkernels.ops.registry"): "the name of a type, which is imported by type checkers alone",
    ("sslkernels.backends", "sslkernels"): "info() prints the version, which pyproject.toml reads from __init__.py",
}
Graph = dict[str, set[str]]


def imports_of(package: Path) -> Graph:
    """Map each module of ``package`` to the modules of it that it imports, `ALLOWED` apart, by full names.

    The packages that a module lies in do not count, since Python imports them for every module.
    """
    modules = {_name(path, package): path for path in (*package.rglob("*.py"), *package.rglob("*.pyi"))}
    return {
        name: {other for other in _imported(path, modules) if other != name and (name, other) not in ALLOWED}
        for name, path in modules.items()
    }


def _name(path: Path, package: Path) -> str:
    parts = (package.name, *path.relative_to(package).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: write imports with the full name of the module."
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in modules else node.module for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def within(graph: Graph) -> Graph:
    """Leave out imports from elsewhere, such as torch."""
    return {name: imported & graph.keys() for name, imported in graph.items()}


def circle(graph: Graph) -> list[str]:
    """Find modules that import each other in a circle, the first one again at the end; empty if there are none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def upwards(graph: Graph) -> list[str]:
    """List the imports that run from a lower layer to a higher one."""
    return [
        f"{name} imports {other}"
        for name, imported in sorted(graph.items())
        for other in sorted(imported)
        if LAYER[_top(other)] > LAYER[_top(name)]
    ]


def _top(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


@pytest.fixture(scope="module")
def graph() -> Graph:
    return within(imports_of(Path(sslkernels.__file__).parent))


def test_every_module_has_a_layer(graph: Graph) -> None:
    homeless = {_top(name) for name in graph} - LAYER.keys()
    assert not homeless, f"give {', '.join(sorted(homeless))} a place in LAYERS of {Path(__file__).name}."


def test_no_modules_import_each_other_in_a_circle(graph: Graph) -> None:
    assert circle(graph) == []


def test_no_import_runs_upwards(graph: Graph) -> None:
    assert upwards(graph) == []


def test_a_circle_and_a_way_up_are_found(tmp_path: Path) -> None:
    """They are found inside functions too, and in either form of import."""
    files = {
        "__init__.py": "",
        "data/__init__.py": "from sslkernels.data.dataset import load\n",
        "data/dataset.py": "import torch\ndef load():\n    from sslkernels.data.digits import read\n",
        "data/digits.py": "from sslkernels.data import dataset\nread = dataset\n",
        "files.py": "def write():\n    import sslkernels.data.digits\n",
    }
    for name, text in files.items():
        path = tmp_path / "sslkernels" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    graph = within(imports_of(tmp_path / "sslkernels"))
    assert set(circle(graph)) == {"sslkernels.data.dataset", "sslkernels.data.digits"}
    assert upwards(graph) == ["sslkernels.files imports sslkernels.data.digits"]
