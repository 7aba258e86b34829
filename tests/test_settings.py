# SPDX-License-Identifier: Apache-2.0
"""Settings that are written as text are read by the signature of the function that takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from sslkernels.discovery import modules_of
from sslkernels.settings import check_known, settings_of

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]


def takes(path, *, size: int = 32, share: float = 0.5, on: bool = False, kind: Literal["a", "b"] = "a",
          sides: tuple[float, ...] = (0.5, 1.0), name: str | None = None, other: Unknown = None, needed: int,
          part: list = ()):  # fmt: skip
    """Take what it is given."""


class Above:
    def __init__(self, backbone, *, width: int = 3, backend: str | None = None) -> None: ...


class Below(Above):
    def __init__(self, *arguments, depth: int = 1, **options) -> None: ...


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("size", "64", 64),
        ("share", "1e-3", 1e-3),
        ("on", "Yes", True),
        ("on", "false", False),
        ("kind", "b", "b"),
        ("sides", "0.2,0.9", (0.2, 0.9)),
        ("sides", "(1, 2,)", (1.0, 2.0)),
        ("name", "none", None),
        ("name", "x", "x"),
        ("needed", "3", 3),
    ],
)
def test_text_becomes_what_the_annotation_says(name, text, value):
    found = settings_of(takes, leave=("other",))[name].read("takes", text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("size", "6.5", "takes: size is '6.5'; pass a whole number."),
        ("size", "-1", "takes: size is '-1'; pass a whole number."),
        ("share", "half", "takes: share is 'half'; pass a number."),
        ("share", "nan", "takes: share is 'nan'; pass a number."),
        ("on", "maybe", "takes: on is 'maybe'; pass true or false."),
        ("kind", "c", "takes: kind is 'c'; accepted are 'a', 'b'."),
        ("sides", "1,x", "takes: sides is 'x'; pass a number."),
    ],
)
def test_other_text_is_one_sentence(name, text, words):
    with pytest.raises(ValueError) as caught:
        settings_of(takes, leave=("other",))[name].read("takes", text)
    assert str(caught.value) == words


def test_only_what_text_can_say_is_a_setting():
    assert list(settings_of(takes, leave=("other",))) == ["size", "share", "on", "kind", "sides", "name", "needed"]


def test_a_class_that_hands_arguments_on_has_those_of_the_class_above():
    assert set(settings_of(Below)) == {"depth", "width", "backend"}
    assert set(settings_of(Above, leave=("backend",))) == {"width"}


def test_unknown_names_get_the_nearest_or_all():
    known = settings_of(takes, leave=("other",))
    for name, words in (("sise", "did you mean size?"), ("zzz", "its own are size, share, on, kind")):
        with pytest.raises(ValueError, match=f"data: takes has no setting {name}; .*{words}".replace("?", r"\?")):
            check_known("data", [name], known, "takes")
    with pytest.raises(ValueError, match="digits has no setting size; leave it out; it has none."):
        check_known("data", ["size"], {}, "digits")


def test_a_file_that_fails_takes_only_itself_away(tmp_path, monkeypatch):
    (tmp_path / "found").mkdir()
    for name, text in (("good", "VALUE = 3\n"), ("bad", "1 / 0\n"), ("__init__", "")):
        (tmp_path / "found" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    modules, broken = modules_of("found", [str(tmp_path / "found")])
    assert modules["good"].VALUE == 3 and broken == {"bad": "ZeroDivisionError: division by zero"}
