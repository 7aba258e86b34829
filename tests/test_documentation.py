# SPDX-License-Identifier: Apache-2.0
"""The pages people copy from run as they stand, and the reference names everything public with its real arguments."""

from __future__ import annotations

import importlib.util
import inspect
import pkgutil
import re
import shlex
from collections.abc import Collection
from pathlib import Path

import pytest

import sslkernels.functional
import sslkernels.losses
import sslkernels.methods
from sslkernels.data import check_reader
from sslkernels.recipes import MODALITIES, find
from sslkernels.settings import arguments_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/training.md", "docs/functions.md", "docs/data.md", "docs/views.md", "docs/evaluation.md")
REFERENCE = ROOT / "docs" / "api"
# Modules whose names the reference lists; what `sslkernels` itself has is under `prototypes`, `state` and `backends`.
DOCUMENTED = (
    "functional",
    "losses",
    "prototypes",
    "state",
    "methods",
    "terms",
    "recipes",
    "data",
    "models",
    "evaluation",
    "training",
)
MODULES = [f"sslkernels.{name}" for name in DOCUMENTED]


@pytest.mark.parametrize("page", PAGES)
def test_snippets_run(page, run_python):
    snippets = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    assert snippets
    done = run_python("\n".join(snippets))
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_readme_names_everything_there_is() -> None:
    named = set(re.findall(r"`(\w+)`", (ROOT / "README.md").read_text()))
    assert {*sslkernels.functional.__all__, *sslkernels.losses.__all__, *sslkernels.methods.available()} <= named


def test_the_reference_lists_every_public_name() -> None:
    entries = {entry for page in REFERENCE.glob("*.md") for entry in re.findall(r"^::: (\S+)", page.read_text(), re.M)}
    assert set(MODULES) <= entries
    for module in map(importlib.import_module, MODULES):
        # A function that is named as its module is missing in the list of the package, and has an entry of its own.
        files = {found.name for found in pkgutil.iter_modules(getattr(module, "__path__", ()))}
        for name in files.intersection(module.__all__):
            assert f"{module.__name__}.{name}.{name}" in entries


def test_the_site_finds_methods_as_the_library_does():
    griffe = pytest.importorskip("griffe", reason="griffe is missing; pip install '.[docs]' brings it")
    pytest.importorskip("mkdocs", reason="mkdocs is missing; pip install '.[docs]' brings it")
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "pages.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    package = griffe.load("sslkernels", search_paths=[ROOT], extensions=griffe.load_extensions(pages.Docstrings))
    assert sorted(map(str, package["methods"].exports)) == sorted(sslkernels.methods.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_documented_arguments_exist(module: str) -> None:
    holder = importlib.import_module(module)
    for name in holder.__all__:
        thing = getattr(holder, name)
        (section,) = re.findall(r"^Args:\n((?:(?: .*)?\n?)*)", inspect.getdoc(thing) or "", re.MULTILINE) or [""]
        documented = re.findall(r"^    (\w+(?:, \w+)*):", section, re.MULTILINE)
        taken = _taken(thing)
        for argument in ", ".join(documented).split(", ") if documented else ():
            assert argument in taken, f"{name} has no argument {argument}"


def _taken(thing: object) -> Collection[str]:
    """Names of arguments, those of its base among them where a class hands further ones on."""
    if not callable(thing):
        return ()
    named = inspect.signature(thing).parameters
    hands_on = inspect.isclass(thing) and any(each.kind is each.VAR_KEYWORD for each in named.values())
    return arguments_of(thing) if hands_on else named


def commands(page: str) -> list[str]:
    """The lines of a page that train something."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"^(sslkernels train [^#\n]*?) *(?:#.*)?$", text, re.MULTILINE)


COMMANDS = commands("data.md")
# Commands that name what a reader of the page brings.
OWN = ("photos", "shards", "Mine_TRAIN", "calls", "table.csv", "mine.sdf", "lines.txt", "log.tsv", "pairs.csv")
# The default data of each modality is trained on in tests/training/test_modalities.py.
ELSEWHERE = tuple(f"--data {modality.data}" for modality in MODALITIES.values())


@pytest.mark.slow
@pytest.mark.share(5)
@pytest.mark.parametrize("command", [each for each in COMMANDS if not any(name in each for name in (*OWN, *ELSEWHERE))])
def test_a_newcomer_s_command_runs_where_its_data_is(command, tmp_path, capsys, monkeypatch):
    pytest.importorskip("lightning")
    from sslkernels.cli import main
    from sslkernels.evaluation import knn
    from sslkernels.training import measure, run

    monkeypatch.setattr(run, "PROBES", dict.fromkeys(run.PROBES, knn))  # a probe of raw pixels takes half a minute
    for name in ("REPEATS", "LOSS_REPEATS", "WARMUPS"):
        monkeypatch.setattr(measure, name, 1)
    code = main([*shlex.split(command)[1:], "--epochs", "1", "--threads", "1", "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err
    if code == 2 and ("is missing; " in said):
        pytest.skip(said.strip())
    assert code == 0, said


@pytest.mark.parametrize("page", ["data.md", "training.md"])
def test_commands_name_data_and_settings_that_are_there(page):
    from sslkernels.cli import _parser

    found = commands(page)
    assert len(found) > 12
    for command in found:
        arguments = shlex.split(command)[1:]
        parsed = _parser(arguments).parse_args(arguments)
        recipe = find(parsed.method)
        assert check_reader(parsed.data or recipe.data)
        assert {each.partition("=")[0] for each in parsed.settings or ()} <= set(recipe.settings)
