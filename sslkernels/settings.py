# SPDX-License-Identifier: Apache-2.0
"""Reads settings that users write as text, ``name=value``, by the signature of the function that takes them."""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from sslkernels.arguments import (
    came,
    check_choice,
    check_flag,
    check_kind,
    check_list,
    check_number,
    check_size,
    is_whole,
)

FLAGS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


@dataclass(frozen=True)
class Setting:
    """A keyword argument that text can name: a number, a word, a flag, or a tuple of these.

    Args:
        name: name of the argument.
        kind: int, float, bool or str; in a tuple, what each of its values is.
        many: whether the value is a tuple.
        choices: the words that are accepted; empty if every word is.
        default: the argument's default; ``inspect.Parameter.empty`` if it has none.
        optional: whether None is accepted.
    """

    name: str
    kind: type
    many: bool
    choices: tuple[str, ...]
    default: Any
    optional: bool

    def read(self, function: str, text: str) -> Any:
        """Turn ``text`` into the value that it means; a ValueError says what is accepted."""
        if self.optional and text.lower() == "none":
            return None
        if not self.many:
            return self._read_one(function, text)
        return tuple(self._read_one(function, each.strip()) for each in text.strip("()").split(",") if each.strip())

    def check(self, function: str, value: Any) -> Any:
        """Check the kind of a value that came from Python; NumPy's numbers become Python's."""
        if self.optional and value is None:
            return None
        if not self.many:
            return self._check_one(function, value)
        return tuple(self._check_one(function, each) for each in check_list(function, self.name, value, "a tuple"))

    def _read_one(self, function: str, text: str) -> Any:
        if self.kind is bool:
            if text.lower() not in FLAGS:
                raise ValueError(f"{function}: {self.name} is {came(text)}; pass true or false.")
            return FLAGS[text.lower()]
        if self.kind is str:
            return self._check_one(function, text)
        try:
            return self._check_one(function, self.kind(text))
        except (ValueError, OverflowError) as error:
            number = "a whole number" if self.kind is int else "a number"
            raise ValueError(f"{function}: {self.name} is {came(text)}; pass {number}.") from error

    def _check_one(self, function: str, value: Any) -> Any:
        if self.kind is bool:
            return check_flag(function, self.name, value)
        if self.kind is int:
            if not is_whole(value, 0):
                raise ValueError(f"{function}: {self.name} is {came(value)}; pass a whole number.")
            return check_size(function, self.name, value, least=0)
        if self.kind is float:
            return check_number(function, self.name, value)
        if self.choices:
            return check_choice(function, self.name, value, self.choices)
        return check_kind(function, self.name, value, str, "a word")


def settings_of(function: Callable[..., Any], leave: Collection[str] = ()) -> dict[str, Setting]:
    """Find the keyword-only arguments of ``function`` that text can set; the names in ``leave`` are left out.

    >>> from sslkernels.settings import settings_of
    >>> def resize(path, *, size: int = 32, sides: tuple[float, ...] = (0.5, 1.0)): ...
    >>> settings_of(resize)["size"].read("resize", "64"), settings_of(resize)["sides"].read("resize", "0.2,0.9")
    (64, (0.2, 0.9))
    """
    found = {}
    for name, (parameter, names) in arguments_of(function).items():
        if parameter.kind is parameter.KEYWORD_ONLY and name not in leave:
            hint = parameter.annotation
            # Only the annotations that are asked for are looked up: others may name what type checkers alone import.
            described = _described(eval(hint, names) if isinstance(hint, str) else hint)
            if described is not None:
                found[name] = Setting(name, *described[:3], parameter.default, described[3])
    return found


def arguments_of(function: Callable[..., Any]) -> dict[str, tuple[inspect.Parameter, dict[str, Any]]]:
    """Find the arguments of a function or class, each with the names that its annotation may use.

    Where a class hands further arguments on (``**options``), those of the class above it count too.
    """
    takers = [function]
    if inspect.isclass(function):
        made = [vars(each).get("__init__") for each in function.__mro__]
        takers = [each for each in made if inspect.isfunction(each)]  # that of `object` hands nothing on
    found: dict[str, tuple[inspect.Parameter, dict[str, Any]]] = {}
    for taker in takers:
        parameters = inspect.signature(taker).parameters.values()
        found = {
            each.name: (each, taker.__globals__) for each in parameters if each.kind is not each.VAR_KEYWORD
        } | found
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return found


def _described(hint: Any) -> tuple[type, bool, tuple[str, ...], bool] | None:
    """Give ``kind, many, choices, optional`` of an annotation; None if text cannot say such a value."""
    if get_origin(hint) in (Union, types.UnionType):
        others = [each for each in get_args(hint) if each is not type(None)]
        inner = _described(others[0]) if len(others) == 1 else None
        return None if inner is None else (*inner[:3], True)
    if get_origin(hint) is Literal:
        return str, False, get_args(hint), False
    if get_origin(hint) is tuple:
        inner = _described(get_args(hint)[0])
        return None if inner is None else (inner[0], True, inner[2], False)
    return (hint, False, (), False) if hint in (int, float, bool, str) else None


def check_known(function: str, names: Collection[str], known: Mapping[str, Any], owner: str) -> None:
    """Refuse a name that ``known`` lacks; the sentence names the nearest, or all."""
    for name in names:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, 1)
        if near:
            advice = f"did you mean {near[0]}?"
        elif known:
            advice = f"its own are {', '.join(known)}."
        else:
            advice = "leave it out; it has none."
        raise ValueError(f"{function}: {owner} has no setting {name}; {advice}")
