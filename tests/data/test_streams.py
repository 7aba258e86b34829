# SPDX-License-Identifier: Apache-2.0
"""Pictures that stay in their files are those that memory would hold, in tar files too; damaged ones are named."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslkernels.data import Pictures, load
from sslkernels.evaluation import encode, evaluated

SIZE = 8


def photographs(folder: Path, count: int = 12, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    draw = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = draw.integers(0, 255, (20, 14, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:02d}.png")
    return folder


def packed(folder: Path, tar: Path, key: str = "cls") -> Path:
    """Write the pictures of ``folder`` into a tar file, as WebDataset has them."""
    with tarfile.open(tar, "w") as archive:
        for label, name in enumerate(sorted(path.name for path in folder.iterdir())):
            for picture in sorted((folder / name).iterdir()):
                text = str(label) if key == "cls" else json.dumps({"label": name, "more": 1})
                for ending, content in (("png", picture.read_bytes()), (key, text.encode())):
                    entry = tarfile.TarInfo(f"{name}/{picture.stem}.{ending}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return tar


def test_what_is_streamed_is_what_memory_would_hold(tmp_path):
    folder = photographs(tmp_path / "photos")
    held, streamed = load(f"imagefolder:{folder}", SIZE), load(f"imagefolder:{folder}?size=8&stream=true")
    assert isinstance(held.inputs, torch.Tensor) and isinstance(streamed.inputs, Pictures)
    for ours, theirs in ((streamed.inputs, held.inputs), (streamed.test_inputs, held.test_inputs)):
        assert ours.shape == tuple(theirs.shape) and len(ours) == len(theirs)
        assert torch.equal(ours[:], theirs) and torch.equal(ours[[3, 0, 3]], theirs[[3, 0, 3]])
        assert torch.equal(ours[torch.tensor([1])], theirs[[1]]) and torch.equal(ours[2:4], theirs[2:4])
    assert torch.equal(streamed.labels, held.labels) and streamed.classes == held.classes
    again = pickle.loads(pickle.dumps(streamed.inputs))
    assert torch.equal(again[:], held.inputs)


def test_a_subset_of_streamed_pictures_stays_in_its_files(tmp_path):
    spec = f"imagefolder:{photographs(tmp_path / 'photos')}?size=8&subset=sas:0.5"
    held, streamed = load(f"{spec}&stream=false"), load(f"{spec}&stream=true")
    assert isinstance(streamed.inputs, Pictures) and 8 <= len(streamed.inputs) <= 12
    assert torch.equal(streamed.inputs[:], held.inputs) and torch.equal(streamed.labels, held.labels)


def test_a_large_folder_is_streamed_without_being_asked(tmp_path, monkeypatch):
    folder = photographs(tmp_path / "photos")
    monkeypatch.setattr("sslkernels.data.readers.imagefolder.MOST_HELD", 24 * 12 * SIZE * SIZE)
    assert isinstance(load(f"imagefolder:{folder}", SIZE).inputs, torch.Tensor)
    assert isinstance(load(f"imagefolder:{folder}", SIZE + 1).inputs, Pictures)
    assert isinstance(load(f"imagefolder:{folder}?stream=false", SIZE + 1).inputs, torch.Tensor)


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_read_in_the_same_order(tmp_path, workers):
    streamed = load(f"imagefolder:{photographs(tmp_path / 'photos')}?size=8&stream=true").inputs
    assert torch.equal(torch.cat(list(streamed.batches(5, workers))), streamed[:])


def test_dark_pictures_of_many_bits_share_one_white(tmp_path):
    folder = tmp_path / "deep"
    for index in range(10):
        (folder / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        values = np.full((8, 8), 100 * (index + 1), np.uint16)
        Image.fromarray(values).save(folder / "ab"[index % 2] / f"{index}.png")
    with pytest.warns(UserWarning, match="10 images of 16 or 32 bits, and none is brighter than 1000; they are"):
        held = load(f"imagefolder:{folder}", SIZE)
    with pytest.warns(UserWarning, match="with white at 1023"):
        streamed = load(f"imagefolder:{folder}?size=8&stream=true")
    assert torch.equal(streamed.inputs[:], held.inputs)
    assert held.inputs.max() == pytest.approx(1000 / 1023)


@pytest.mark.parametrize("key", ["cls", "json"])
def test_tar_files_hold_what_their_folder_held(tmp_path, key):
    folder = photographs(tmp_path / "photos")
    (tmp_path / "shards").mkdir()
    packed(folder, tmp_path / "shards" / "all-000.tar", key)
    held, streamed = load(f"imagefolder:{folder}", SIZE), load(f"webdataset:{tmp_path / 'shards'}?size=8")
    assert torch.equal(streamed.inputs[:], held.inputs) and torch.equal(streamed.test_inputs[:], held.test_inputs)
    assert torch.equal(streamed.labels, held.labels)
    assert streamed.classes == (("0", "1") if key == "cls" else ("cat", "dog"))
    one = load(f"webdataset:{tmp_path / 'shards' / 'all-000.tar'}?size=8")
    assert torch.equal(one.inputs[:], held.inputs)


def test_tar_files_named_as_tests_are_held_out(tmp_path):
    packed(photographs(tmp_path / "a", 6), tmp_path / "train-0.tar")
    packed(photographs(tmp_path / "b", 5), tmp_path / "val-0.tar")
    found = load(f"webdataset:{tmp_path}?size=8")
    assert (len(found.inputs), len(found.test_inputs)) == (12, 10)


def test_webdataset_itself_reads_the_same_pictures(tmp_path):
    web = pytest.importorskip("webdataset")
    tar = packed(photographs(tmp_path / "photos"), tmp_path / "all.tar")
    theirs = {each["__key__"]: each for each in web.WebDataset(str(tar), shardshuffle=False).decode("rgb8")}
    source = load(f"webdataset:{tar}?size=8").inputs.source
    assert len(theirs) == len(source) == 24
    for place in range(len(source)):
        ours = np.asarray(Image.open(source.open(place)).convert("RGB"))
        assert np.array_equal(ours, theirs[source.names[place].rpartition(".")[0]]["png"])


def test_a_tar_file_that_cannot_be_read_is_one_sentence(tmp_path):
    tar = packed(photographs(tmp_path / "photos", 3), tmp_path / "all.tar")
    compressed = tmp_path / "all.tar.gz"
    with tarfile.open(compressed, "w:gz") as archive:
        archive.add(tmp_path / "photos")
    for path, words in (
        (compressed, "is damaged or no uncompressed tar file"),
        (tmp_path / "photos", "holds no file that ends in .tar"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            load(f"webdataset:{path}")
        assert "\n" not in str(caught.value)
    content = tar.read_bytes()
    tar.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="webdataset: .*all.tar is damaged or no uncompressed tar file|at least 3"):
        load(f"webdataset:{tar}")


def damage(folder: Path, name: str = "cat/03.png") -> Path:
    file = folder / name
    file.write_bytes(file.read_bytes()[:60])
    return file


def test_a_damaged_picture_is_named(tmp_path):
    folder = photographs(tmp_path / "photos")
    file = damage(folder)
    for spec in (f"imagefolder:{folder}", f"imagefolder:{folder}?stream=true"):
        with pytest.raises(ValueError, match=f"^{file} cannot be read as an image .*; repair or remove it."):
            whole = load(spec, SIZE)
            whole.inputs[:], whole.test_inputs[:]


def test_another_of_its_class_takes_the_place_of_a_damaged_picture(tmp_path):
    folder = photographs(tmp_path / "photos")
    before = load(f"imagefolder:{folder}", SIZE)
    damage(folder)
    with pytest.warns(UserWarning, match="03.png cannot be read as an image .* Another picture takes its place."):
        held = load(f"imagefolder:{folder}?damaged=skip", SIZE)
    streamed = load(f"imagefolder:{folder}?damaged=skip&stream=true", SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.cat([streamed.inputs[:], streamed.test_inputs[:]])
        again = torch.cat([streamed.inputs[[0]], streamed.inputs[:][1:], streamed.test_inputs[:]])
    assert torch.equal(found, again)  # the same in every pass
    whole = torch.cat([before.inputs, before.test_inputs])
    changed = (found != whole).flatten(1).any(1).nonzero()[:, 0].tolist()
    labels = torch.cat([before.labels, before.test_labels])
    assert len(changed) == 1 and labels[changed[0]] == 0
    assert any(torch.equal(found[changed[0]], each) for each in whole[labels == 0])
    assert held.inputs.shape == before.inputs.shape


def test_a_class_of_damaged_pictures_stops_the_run(tmp_path):
    folder = photographs(tmp_path / "photos", 5)
    for index in range(5):
        damage(folder, f"cat/{index:02d}.png")
    streamed = load(f"imagefolder:{folder}?damaged=skip&stream=true", SIZE)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="is damaged, and all of its class are"):
        warnings.simplefilter("ignore")
        streamed.inputs[:]


def test_features_of_streamed_pictures_are_those_of_held_ones(tmp_path, monkeypatch):
    folder = photographs(tmp_path / "photos")
    held, streamed = load(f"imagefolder:{folder}", SIZE), load(f"imagefolder:{folder}?stream=true", SIZE)
    backbone = torch.nn.Flatten()
    assert torch.equal(encode(backbone, streamed.inputs), encode(backbone, held.inputs))
    monkeypatch.setattr("sslkernels.evaluation.features.MOST", 7)
    seen = evaluated(streamed)
    assert len(seen.inputs) == len(seen.labels) == 7 and len(seen.test_inputs) == len(streamed.test_inputs)
    rows = [int((held.inputs == image).flatten(1).all(1).nonzero()[0]) for image in seen.inputs[:]]
    assert rows == sorted(rows) and torch.equal(seen.labels, held.labels[rows])
    assert evaluated(held) is not None and torch.equal(evaluated(held).inputs, held.inputs)
