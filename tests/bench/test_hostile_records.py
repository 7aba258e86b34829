# SPDX-License-Identifier: Apache-2.0
"""Damaged or hostile result files and wrong command lines get one sentence, and nothing is written."""

from __future__ import annotations

import copy
import json
import math
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_page import SMALL, sweep, training

from sslkernels.bench import records
from sslkernels.cli import main

TRAININGS = [training("reference"), training("cpu"), training("control")]


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder: exit code, what was printed, what was complained."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(list(arguments))
        except SystemExit as error:
            code = int(error.code or 0)
        return code, *capsys.readouterr()

    return call


def check_sentence(complaint: str) -> None:
    assert complaint.startswith("sslkernels: ") and complaint.endswith("\n"), complaint
    line = complaint[:-1]
    assert line.isprintable(), complaint
    assert line.endswith((".", "--help")), complaint


def refused(call: Any, *arguments: str) -> str:
    before = sorted(Path().rglob("*"))
    begun = time.monotonic()
    code, printed, complaint = call(*arguments)
    assert (code, printed) == (2, ""), (arguments, code, printed, complaint)
    assert time.monotonic() - begun < 10, arguments
    check_sentence(complaint)
    assert sorted(Path().rglob("*")) == before, arguments
    return complaint


# Every field of a record gets every kind of value that it may not have.


NESTED: Any = 0
for _ in range(50):
    NESTED = [NESTED]
VALUES = (
    None, True, -1, 0, 1e300, 1e-300, math.nan, math.inf, 10**400, "", "x", "x" * 10_000, "../../x", "a/b", "<b>&\"'",
    "[/red]", "$x^$", "\x1b]0;x\x07", "new\nline", "\udcff", "ünï", [], {}, NESTED, {"median": "1"}, [1], [-1, "x"],
)  # fmt: skip


def fields(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield (*path, key)
            yield from fields(each, (*path, key))


def changed(record: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    record = copy.deepcopy(record)
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return record


WHOLE = {
    "benchmark": SMALL[0] | {"note": "a note", "preset": "small", "disturbed": True, "discarded": 3},
    "update": SMALL[7],
    "failed": SMALL[5],
    "training": TRAININGS[1],
}


def test_whole_records_are_whole():
    assert {name: records.fault(record) for name, record in WHOLE.items()} == dict.fromkeys(WHOLE)
    diverged = changed(TRAININGS[1], ("losses",), [3.0, math.inf, math.nan])
    assert records.fault(diverged | {"deviation": math.nan, "agrees": False}) is None


def written(path: Path, found: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in found))
    return str(path)


@pytest.mark.parametrize("kind", WHOLE)
def test_any_value_in_any_field_is_refused_or_harmless(kind, tmp_path, monkeypatch):
    """An accepted record gives pages that can be printed, and names of pictures in plain letters."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "digest", lambda _: "")
    for path in fields(WHOLE[kind]):
        for value in VALUES:
            record = changed(WHOLE[kind], path, value)
            file = Path("x.jsonl")
            try:
                written(file, [record])
            except ValueError:  # JSON itself does not write such an integer
                continue
            try:
                found = records.load([file])
            except ValueError as error:
                assert str(error).endswith(".") and "x.jsonl" in str(error), (path, value)
                continue
            for name in (*found.families, *found.crossover):
                assert name.replace("-", "").replace("_", "").isalnum() and name.isascii(), (path, value)
            for text in strings(found.all):
                assert text.isprintable(), (path, value)


def strings(value: Any) -> Iterator[str]:
    """Yield the texts that tables, pages and pictures show."""
    shown = (
        "family",
        "workload",
        "dtype",
        "provider",
        "why",
        "note",
        "method",
        "data",
        "backend",
        "name",
        "isa",
        "torch",
    )
    if isinstance(value, list):
        for each in value:
            yield from strings(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if isinstance(each, str) and key in shown:
                yield each
            yield from strings(each)


@pytest.mark.parametrize("family", ["../x", "/tmp/x", "x/../../y", "..", "", "similarity\0", "NUL"])
def test_no_picture_is_drawn_outside_of_the_folder(family, here, tmp_path):
    Path("inside").mkdir()
    written(Path("x.jsonl"), [record | {"family": family} for record in SMALL])
    assert "damaged in 'family'" in refused(here, "bench", "plot", "x.jsonl", "--out", "inside")


def test_devices_whose_names_have_the_same_letters_get_pictures_of_their_own(tmp_path):
    names = ["A 1", "a-1", "A*1", "...", "é", "x" * 200]
    devices = [SMALL[0]["device"] | {"name": name} for name in names]
    written(tmp_path / "x.jsonl", [record | {"device": device} for device in devices for record in SMALL[:2]])
    found = records.load([tmp_path / "x.jsonl"]).families
    assert len(found) == len(names) and all(len(group) == 2 for group in found.values())
    assert all(name.replace("-", "").isalnum() and name.isascii() and len(name) < 100 for name in found)


def test_strange_names_of_devices_are_shown_as_they_are(here):
    device = SMALL[0]["device"] | {"name": r"[/red] \[b] $x^$ <script> 'é' {0}"}
    for number, group in enumerate((SMALL, sweep(), TRAININGS)):
        written(Path(f"{number}.jsonl"), [record | {"device": device} for record in group])
    code, _, complaint = here("bench", "plot", "0.jsonl", "1.jsonl", "2.jsonl", "--out", "out")
    assert (code, complaint) == (0, "")
    text = Path("out/index.html").read_text()
    assert "<script" not in text and "$x^$ &lt;script&gt;" in text
    code, table, complaint = here("bench", "compare", "0.jsonl", "0.jsonl")
    assert (code, complaint) == (0, "") and r"[/red] \[b] $x^$ <script>" in table


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe{}", "it is not text"),
        (b"\0" * 100, "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a":' * 100_000, "is not JSON"),
        (b"9" * 10_000, "is not JSON"),
        (b"[1]\n", "is not a benchmark record"),
        (b"null\n", "is not a benchmark record"),
        (b'{"format": 1}\n', "is incomplete"),
        (b'{"format": true, "kind": "train"}\n', "is incomplete"),
        (b"\n\n", "is not JSON"),
        (b"{}\n" * 10_001, "is larger than"),
        (b" " * (65 << 20), "is larger than"),
    ],
    ids=range(12),
)
def test_what_is_no_result_file_is_named(content, words, here):
    Path("x.jsonl").write_bytes(content)
    for command in (("plot", "x.jsonl", "--out", "out"), ("compare", "x.jsonl", "x.jsonl")):
        complaint = refused(here, "bench", *command)
        assert "x.jsonl" in complaint and words in complaint


def test_what_is_no_file_is_named(here):
    os.mkfifo("fifo")
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    Path("zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    for name in ("fifo", "folder", "loop", "zero", "socket", "absent", "x" * 300, "\x1b[31m", "new\nline", "\udcff"):
        for command in (("plot", name, "--out", "out"), ("compare", name, name)):
            assert "cannot be read" in refused(here, "bench", *command)


def test_trainings_alone_are_not_compared(here):
    written(Path("x.jsonl"), TRAININGS)
    assert "holds records of `bench train` alone" in refused(here, "bench", "compare", "x.jsonl", "x.jsonl")


def test_more_than_a_picture_holds_is_refused(here):
    many = [
        SMALL[0] | {"shape": [size, 8], "workload": f"nt_xent-{size}x8", "provider": provider}
        for size in range(1, 402)
        for provider in ("cpu", "eager")
    ]
    written(Path("x.jsonl"), many)
    assert "a picture shows 600 at most" in refused(here, "bench", "plot", "x.jsonl", "--out", "out")


# Writing


def test_a_full_disk_leaves_the_older_file_and_is_one_sentence(here, monkeypatch):
    written(Path("x.jsonl"), SMALL[:2])
    Path("x.png").write_bytes(b"older")
    before = sorted(Path().iterdir())

    def full(*_: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    code, _, complaint = here("bench", "plot", "x.jsonl", "--out", "x.png")
    check_sentence(complaint)
    assert code == 2 and "x.png cannot be written: No space left on device" in complaint
    assert sorted(Path().iterdir()) == before and Path("x.png").read_bytes() == b"older"


# Command lines

FOREIGN = ("fifo", "/dev/null", "folder", "no/such/folder", "text/x", "x" * 300, "/proc/x", "")
WRONG = {
    "bench": [[], ["nonsense"], [""]],
    "bench list": [["--device", name] for name in (
        "", "gpu", "meta", "cuda:-1", "cuda:99", "cuda:999", "cpu:0", "\x1b",
    )],
    "bench run": [
        [], [""], ["nonsense"], *(["nt_xent", *more] for more in (
            ["--only", "\x1b"], ["--dtype", "fp64"], ["--dtype", ""], ["--preset", "nonsense"],
            *(["--providers", name] for name in ("", ",", "nonsense", "cpu,", "CPU", "\x1b[31m")),
            *(["--device", name] for name in ("", "gpu", "meta", "mps", "cuda:99", "cuda:99999999999999999999")),
            *(["--seconds", value] for value in ("", "x", "0", "-1", "nan", "inf")),
            *(["--quick", "--out", name] for name in FOREIGN),
        )),
    ],
    "bench compare": [
        [], ["text"], ["text", "text"],
        *(["text", "text", "--fail-over", value] for value in ("", "x", "nan", "inf", "-1")),
    ],
    "bench plot": [
        [], ["text"], ["--out", "x"],
        *(["good", "--out", name] for name in ("text", "fifo.png", *set(FOREIGN) - {"folder", ""})),
    ],
    "bench train": [
        [], [""], ["nonsense"], *(["simclr", *more] for more in (
            *(["--steps", value] for value in ("", "x", "0", "-1", "1.5", "9" * 30)),
            *(["--batch-size", value] for value in ("", "x", "0", "-1", "1", "9" * 30)),
            *(["--seed", value] for value in ("x", "-1", "1.5", "9" * 30)),
            *(["--data", value] for value in ("", "x", "npz:", "npz:fifo", "npz:text", "imagefolder:folder")),
            *(["--backend", value] for value in ("", "nonsense", "reference")),
            *(["--out", name] for name in (*FOREIGN, "x.png")),
        )),
    ],
    "explain": [
        [], ["nt_xent"], ["--shape", "8,8"], ["nt_xent", "--shape"],
        *([op, "--shape", "8,8"] for op in ("", "nonsense", "all", "similarity", "\x1b[31m", "ünï")),
        *(["nt_xent", "--shape", value] for value in (
            "", "0", "-1", "1e9", "8", "8,0", "-1,8", "8,8,8", "a,b", "8,,8", "8;8", "(", "1.5,8", "²,8", "٣,8", "\x1b",
            f"{10**30},8", "9" * 5000 + ",8",
        )),
        *(["nt_xent", "--shape", "8,8", *more] for more in (
            ["extra"], ["--nonsense"], ["--device", "cuda:99", "--measure"],
            *(["--dtype", value] for value in ("", "int8", "float", "FP32", "complex64")),
            *(["--device", value] for value in ("", "gpu", "meta", "cuda:-1", "cuda:999", "CPU", "cpu:0", "\x1b")),
            *(["--backend", value] for value in ("", "nonsense", "REFERENCE", "\x1b")),
        )),
        ["nt_xent", "--shape", "4000000000,4000", "--measure"],
        ["ema_update", "--shape", "1000000000,100000000000", "--measure"],
    ],
}  # fmt: skip


@pytest.mark.parametrize("command", WRONG)
def test_every_wrong_command_line_is_one_sentence(command, here):
    os.mkfifo("fifo")
    os.mkfifo("fifo.png")
    Path("folder").mkdir()
    Path("text").write_text("text")
    written(Path("good"), SMALL[:2])
    for arguments in WRONG[command]:
        refused(here, *command.split(), *arguments)
