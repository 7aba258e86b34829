# SPDX-License-Identifier: Apache-2.0
"""Bring pages and docstrings of the repository into the site, for MkDocs (hooks) and Griffe (an extension).

- Pages that live outside docs/, such as the README, get a place in the site.
- Links between files of the repository become links between pages, so that one text serves both.
- Docstrings become Markdown: their examples blocks of code, the names in them links.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Where a file of the repository stands in the site. What is in docs/ keeps its place there.
PLACES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing/index.md",
    "RELEASING.md": "contributing/releasing.md",
    "SECURITY.md": "contributing/security.md",
    "CODE_OF_CONDUCT.md": "contributing/conduct.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "LICENSE.txt",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/RESULTS.md": "results.md",
}
FOLDERS = {"docs": "", "benchmarks/results": "results"}
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")
# A list in a list, which Python's Markdown wants to be indented by four spaces.
_NESTED = re.compile(r"^  (- )", re.MULTILINE)
# Modules whose names have a page in docs/api/.
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
# An example with what it prints, up to the next empty line, or what stands between backticks.
_CODE = re.compile(r"(^ *>>> .*(?:\n.*\S.*)*|``[^`]+``|`[^`\n]+`)", re.MULTILINE)


def place(path: str) -> str | None:
    """Where the site has a file of the repository, or None where it has none."""
    folder, name = posixpath.split(path)
    if path in PLACES:
        return PLACES[path]
    for parent, there in FOLDERS.items():
        if folder == parent or folder.startswith(parent + "/"):
            return posixpath.normpath(posixpath.join(there, folder[len(parent) + 1 :], name))
    return None


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, pictures and records that live outside docs/."""
    pictures = (path.relative_to(ROOT).as_posix() for path in (ROOT / "benchmarks" / "results").glob("*.*"))
    for path in (*PLACES, *pictures):
        files.append(File.generated(config, str(place(path)), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages, and its Markdown into Python's."""
    at = page.file.src_uri
    source = next((path for path, there in PLACES.items() if there == at), f"docs/{at}")

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match.groups(default="")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        there = place(path)
        if (ROOT / path).is_dir():
            return words  # a site has no pages of folders
        if there is None:
            return match[0]  # and MkDocs warns
        return f"[{words}]({posixpath.relpath(there, posixpath.dirname(at) or '.')}{anchor})"

    return _NESTED.sub(r"    \1", _LINK.sub(link, markdown))


class Docstrings(griffe.Extension):
    """Docstrings are written to be read as text; here they become Markdown."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        _export_methods(pkg["methods"])
        known = {}
        for module in DOCUMENTED:
            for export in pkg[module].exports or ():
                path, member = f"{pkg.path}.{module}.{export}", pkg[module].members[str(export)]
                if member.is_attribute and not member.has_docstring:
                    continue  # such as TASKS, which a page does not show
                hidden = member.is_module  # a function named as its module: sigreg
                known[str(export)] = known[path] = f"{path}.{export}" if hidden else path
        for thing in _everything(pkg):
            if thing.docstring is not None:
                thing.docstring.value = as_markdown(thing.docstring.value, known)


def _export_methods(methods: griffe.Module) -> None:
    """Export what `sslkernels.methods` finds when it is imported: in each file the class with numbers of its own."""
    found = [
        each
        for module in methods.modules.values()
        for each in module.classes.values()
        if not each.is_alias and "small" in each.members and each.members["small"].value is not None
    ]
    for each in found:
        methods.set_member(each.name, griffe.Alias(each.name, each))
    methods.exports = [*re.findall(r"['\"](\w+)['\"]", str(methods["__all__"].value)), *(each.name for each in found)]


def _everything(thing: griffe.Object) -> Iterator[griffe.Object]:
    yield thing
    for member in thing.members.values():
        if not member.is_alias:
            yield from _everything(member)


def as_markdown(text: str, known: dict[str, str]) -> str:
    """Examples become blocks of code, known names links, and a product such as N*D does not begin italics."""
    pieces = _CODE.split(text)  # text, code, text, code, ..., text
    pieces[::2] = [re.sub(r"(?<=[\w)])\*(?=[\w(])", r"\*", piece) for piece in pieces[::2]]
    for at, code in enumerate(pieces[1::2]):
        indent, name = re.match(" *", code)[0], code.strip("`")
        if code.lstrip().startswith(">>>"):
            code = f"{indent}```pycon\n{code}\n{indent}```"
        elif name in known and not code.startswith("``"):
            code = f"[{code}][{known[name]}]"
        pieces[2 * at + 1] = code
    return "".join(pieces)
