# SPDX-License-Identifier: Apache-2.0
"""Finds the files of packages that carry real data. The packages themselves are never imported."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A package that carries data.

    Args:
        name: name for the command that installs it, with a version where its files differ between versions.
        size: what the command brings, for people.
        licence: licence of the data, as its package states it.
        module: name of its folder among Python's packages, for a package of pip.
        folder: its place in the file system, for a package of Debian.
    """

    name: str
    size: str
    licence: str
    module: str | None = None
    folder: str | None = None

    def path(self, data: str, *parts: str) -> Path:
        """Find the file or folder ``parts`` of the package, for the data set called ``data``.

        Raises:
            FileNotFoundError: the package or this part of it is missing; one sentence with the command that brings it.
        """
        place = self._place()
        if place is None:
            raise FileNotFoundError(f"data is {data!r} and {self.name} is missing; {self.command}.")
        found = place.joinpath(*parts)
        if not found.exists():
            raise FileNotFoundError(
                f"data is {data!r} and {found} is missing, so {self.name} is of another version or damaged; "
                f"{self.command}."
            )
        return found

    @property
    def command(self) -> str:
        install = "pip install --no-deps" if self.module else "apt-get install"
        return f"{install} {self.name} ({self.size}, {self.licence})"

    def _place(self) -> Path | None:
        if self.folder is not None:
            return Path(self.folder) if Path(self.folder).is_dir() else None
        assert self.module is not None
        try:
            found = importlib.util.find_spec(self.module)
        except (ImportError, ValueError):  # a half-removed package, or one that was put into sys.modules by hand
            return None
        if found is None or not found.submodule_search_locations:
            return None
        return Path(next(iter(found.submodule_search_locations)))
