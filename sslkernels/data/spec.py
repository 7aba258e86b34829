# SPDX-License-Identifier: Apache-2.0
"""Loads the data set that a spec names: ``NAME[:PATH][?setting=value&...]``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from sslkernels.arguments import came, check_kind, check_size
from sslkernels.data.dataset import Dataset
from sslkernels.data.readers import BROKEN, MODALITY_OF, READERS
from sslkernels.data.subsets import kept
from sslkernels.settings import check_known, settings_of

# The setting that data of every reader has.
SUBSET = "subset"


class Spec(NamedTuple):
    """The parts of a spec; ``given`` holds the settings in it as text, by name."""

    name: str
    path: str
    given: dict[str, str]

    @classmethod
    def of(cls, text: str) -> Spec:
        """Take a spec apart. A path may hold a question mark: settings begin at the last one that ``=`` follows."""
        whole, given = text, dict[str, str]()
        before, mark, after = text.rpartition("?")
        if mark and "=" in after and "/" not in after.partition("=")[0]:
            whole = before
            for pair in after.split("&"):
                name, equals, value = pair.partition("=")
                if not equals or not name or name in given:
                    raise ValueError(
                        f"data is {came(text)}, and {came(pair)} in it is no setting of its own; write ?name=value, "
                        "with & between several."
                    )
                given[name] = unquote_plus(value)
        name, _, path = whole.partition(":")
        return cls(name, path, given)


def load(spec: str, image_size: int | None = None) -> Dataset:
    """Load the data set that ``spec`` names.

    One warning lists what lies in the files and is not read. Pictures are read as a viewer shows them: upright by their
    EXIF, on white where they are transparent, the first of several frames. Colour profiles are not applied.

    Args:
        spec: ``NAME[:PATH][?setting=value&...]``, such as ``"digits"`` (1,797 handwritten digits of 8x8 that come with
            scikit-learn) or ``"imagefolder:photos?size=64"``. The page "Data of every kind" has all names. With
            ``?subset=sas:0.8`` or ``?subset=curated:500`` some training samples are kept, whatever the reader.
        image_size: another way to write the setting ``size``.

    Raises:
        ValueError: the spec or a file's content is wrong. FileNotFoundError: nothing is at PATH, or the package that
            carries the data is not installed; the sentence has the command that brings it.

    >>> from sslkernels.data import load
    >>> load("digits").inputs.shape
    torch.Size([1438, 1, 8, 8])
    """
    spec = check_kind("load", "spec", spec, str, "a name such as 'digits' or 'imagefolder:PATH'")
    parts = Spec.of(spec)
    check_reader(spec)
    reader, settings = READERS[parts.name], settings_of(READERS[parts.name])
    subset = parts.given.pop(SUBSET, None)
    check_known("data", parts.given, {**settings, SUBSET: None}, parts.name)
    chosen: dict[str, Any] = {
        name: settings[name].read(f"data {parts.name}", text) for name, text in parts.given.items()
    }
    if image_size is not None and "size" in settings:
        chosen.setdefault("size", check_size("load", "image_size", image_size))
    dataset = reader(*_paths(spec, parts), **chosen)
    if subset is not None:
        dataset = dataset.only(kept(subset, dataset))
    train, test = (tuple(getattr(inputs, "shape", ())[1:]) for inputs in (dataset.inputs, dataset.test_inputs))
    if train != test:
        raise ValueError(f"data is {spec!r} with training samples of {train} and test samples of {test}; use one size.")
    if len(dataset.test_inputs) < 2:
        raise ValueError(
            f"data is {spec!r} and holds out {len(dataset.test_inputs)} sample; the report needs two. Add samples."
        )
    return dataset


def check_reader(spec: str) -> str:
    """Check that there is a reader of the data that ``spec`` names; gives the modality of its samples."""
    name = Spec.of(spec).name
    if name in BROKEN:
        raise ValueError(f"data is {came(spec)}, and the file of its reader cannot be imported ({BROKEN[name]}).")
    if name not in READERS or (":" not in spec and takes_path(name) is True):
        raise ValueError(f"data is {came(spec)}; accepted are {accepted()}.")
    return MODALITY_OF[name]


def takes_path(name: str) -> bool | None:
    """Tell if the reader needs a path: None if it can do without."""
    first = next(iter(inspect.signature(READERS[name]).parameters.values()), None)
    if first is None or first.kind is first.KEYWORD_ONLY:
        return False
    return True if first.default is first.empty else None


def accepted() -> str:
    """The names that ``--data`` takes, for people."""
    *others, last = (f"{name}:PATH" if takes_path(name) else name for name in READERS)
    return f"{', '.join(others)} and {last}" if others else last


def _paths(spec: str, parts: Spec) -> tuple[Path, ...]:
    takes = takes_path(parts.name)
    if takes is False:
        if ":" in spec.partition("?")[0]:
            raise ValueError(f"data is {spec!r}, and {parts.name} takes no path; write {parts.name}.")
        return ()
    if not parts.path:
        if takes is None and ":" not in spec:
            return ()
        raise ValueError(f"data is {spec!r}, which names no path; write {parts.name}:PATH.")
    if not _is_there(Path(parts.path)):
        raise FileNotFoundError(f"data is {spec!r}, and nothing is there; pass the path of data that exists.")
    return (Path(parts.path),)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # the name may be longer than any file's
        return False
