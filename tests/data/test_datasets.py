# SPDX-License-Identifier: Apache-2.0
"""Every kind of data set loads, and bad data gets one sentence."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslkernels.data import load
from sslkernels.data.dataset import split_by_group

CIFAR_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")


def write_images(folder: Path, count: int = 10, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (20, 14), (100 * label, index, 255)).save(folder / name / f"{index}.png")
    return folder


def write_cifar(folder: Path) -> Path:
    folder.mkdir()
    for number, name in enumerate(CIFAR_FILES):
        records = np.full((10, 3073), number, dtype=np.uint8)
        records[:, 0] = np.arange(10)
        records[:, 1:1025] = 255  # the red plane comes first
        records.tofile(folder / name)
    return folder


def test_digits_have_a_fixed_split_without_overlap():
    first, second = load("digits"), load("digits")
    assert first.inputs.shape == (1438, 1, 8, 8)
    assert first.test_inputs.shape == (359, 1, 8, 8)
    assert torch.equal(first.test_inputs, second.test_inputs)
    assert (first.inputs.min(), first.inputs.max()) == (0, 1)
    assert torch.bincount(first.test_labels).min() >= 35
    from sklearn.datasets import load_digits

    everything = torch.cat([first.inputs, first.test_inputs]).flatten(1).double() * 16
    theirs = torch.from_numpy(load_digits().data)
    assert torch.equal(everything.unique(dim=0), theirs.unique(dim=0))


def test_imagefolder_is_resized_and_split_per_class(tmp_path):
    data = load(f"imagefolder:{write_images(tmp_path / 'photos')}", image_size=16)
    assert data.classes == ("cat", "dog")
    assert data.inputs.shape == (16, 3, 16, 16)
    assert torch.bincount(data.test_labels).tolist() == [2, 2]
    assert (data.inputs[data.labels == 1][:, 0] - 100 / 255).abs().max() < 1e-6
    assert (data.inputs[:, 2] == 1).all()


def test_imagefolder_keeps_its_own_split(tmp_path):
    write_images(tmp_path / "train", 6)
    write_images(tmp_path / "test", 3)
    data = load(f"imagefolder:{tmp_path}")
    assert (len(data.inputs), len(data.test_inputs)) == (12, 6)


def test_imagefolder_takes_val_for_the_held_out_part_and_skips_hidden_files(tmp_path):
    write_images(tmp_path / "train", 6)
    write_images(tmp_path / "val", 3)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "cat" / "._0.png").write_bytes(b"no image")
    data = load(f"imagefolder:{tmp_path}")
    assert (len(data.inputs), len(data.test_inputs), len(data.classes)) == (12, 6, 2)


def test_sixteen_bit_grey_is_scaled(tmp_path):
    from PIL import Image

    values = (np.arange(64).reshape(8, 8) * 1000).astype(np.uint16)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.fromarray(values).save(tmp_path / name / f"{number}.png")
    image = load(f"imagefolder:{tmp_path}", 8).inputs[0]
    expected = torch.from_numpy((values / 65535).astype(np.float32))
    torch.testing.assert_close(image, expected.expand(3, 8, 8))
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "a" / "6.tiff")
    assert "floating-point pixels" in refusal(f"imagefolder:{tmp_path}")


def test_cifar10_reads_label_then_planes(tmp_path):
    data = load(f"cifar10:{write_cifar(tmp_path / 'cifar')}")
    assert data.inputs.shape == (50, 3, 32, 32)
    assert data.labels.tolist() == list(range(10)) * 5
    assert (data.inputs[:, 0] == 1).all()
    assert torch.equal(data.inputs[:, 1].amax((1, 2)), torch.arange(5).repeat_interleave(10) / 255)
    assert (data.test_inputs[:, 2] == 5 / 255).all()


@pytest.mark.parametrize("shape", [(30, 6, 5), (30, 6, 5, 1), (30, 1, 6, 5)])
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_npz_takes_the_usual_layouts(tmp_path, shape, dtype):
    values = np.random.RandomState(0).randint(0, 256, shape)
    images = values.astype(np.uint8) if dtype == "uint8" else values / 255
    np.savez(tmp_path / "x.npz", images=images, labels=np.array(["b", "a", "c"] * 10))
    data = load(f"npz:{tmp_path / 'x.npz'}")
    assert data.classes == ("a", "b", "c")
    assert data.inputs.shape == (24, 1, 6, 5)
    everything = torch.cat([data.inputs, data.test_inputs]).flatten(1)
    expected = torch.from_numpy(values.reshape(30, -1) / 255).float()
    torch.testing.assert_close(everything.sum(1).sort().values, expected.sum(1).sort().values)


def test_npz_keeps_its_own_split(tmp_path):
    images, labels = np.zeros((8, 4, 4, 3)), np.array([3, 5] * 4)
    np.savez(tmp_path / "x.npz", images=images, labels=labels, test_images=images[:3], test_labels=labels[1:4])
    data = load(f"npz:{tmp_path / 'x.npz'}")
    assert data.inputs.shape == (8, 3, 4, 4)
    assert data.test_labels.tolist() == [1, 0, 1]


def refusal(spec: str, error: type[Exception] = ValueError) -> str:
    with pytest.raises(error) as caught:
        load(spec)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


@pytest.mark.parametrize("spec", ["faces", "", "npz", "digits:here", "imagefolder:"])
def test_unknown_data_is_refused(spec):
    assert refusal(spec).startswith(f"data is {spec!r}")


@pytest.mark.parametrize("kind", ["imagefolder", "cifar10", "npz"])
def test_missing_path_is_named(tmp_path, kind):
    assert str(tmp_path / "nothing") in refusal(f"{kind}:{tmp_path / 'nothing'}", FileNotFoundError)


@pytest.mark.parametrize("content", [b"", b"not an image", "half"])
def test_unreadable_image_is_named(tmp_path, content):
    write_images(tmp_path / "photos")
    bad = tmp_path / "photos" / "dog" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60] if content == "half" else content)
    assert f"{bad} cannot be read as an image" in refusal(f"imagefolder:{tmp_path / 'photos'}")


def unlabelled(spec: str) -> tuple[int, int]:
    """Load the data, which must have no labels: the number of images for training and held out."""
    data = load(spec, 8)
    assert data.classes == () and data.labels is None and data.test_labels is None
    return len(data.inputs), len(data.test_inputs)


def test_pictures_without_classes_or_of_one_have_no_labels(tmp_path):
    write_images(tmp_path / "photos", classes=("cat",))
    for folder in (tmp_path / "photos", tmp_path / "photos" / "cat"):
        assert unlabelled(f"imagefolder:{folder}") == (8, 2)
    write_images(tmp_path / "parts", 6, ("train", "val"))
    assert unlabelled(f"imagefolder:{tmp_path / 'parts'}") == (6, 6)
    images = np.random.RandomState(0).rand(15, 4, 4)
    for more in ({}, {"labels": np.zeros(15, int)}):
        np.savez(tmp_path / "x.npz", images=images, **more)
        assert unlabelled(f"npz:{tmp_path / 'x.npz'}") == (12, 3)
    np.savez(tmp_path / "x.npz", images=images, test_images=images[:4])
    assert unlabelled(f"npz:{tmp_path / 'x.npz'}") == (15, 4)


@pytest.mark.parametrize("names", [("train", "car"), ("test", "train", "val", "zebra"), ("train", "test", "dog")])
def test_classes_may_be_called_train_or_test(tmp_path, names):
    write_images(tmp_path, classes=names)
    assert load(f"imagefolder:{tmp_path}").classes == tuple(sorted(names))


def test_other_folders_beside_train_and_test_do_not_make_them_classes(tmp_path):
    write_images(tmp_path / "train", 6)
    write_images(tmp_path / "test", 3)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "boxes.txt").write_text("")
    assert load(f"imagefolder:{tmp_path}").classes == ("cat", "dog")


def test_pictures_below_the_classes_are_read_and_what_is_not_is_said(tmp_path):
    write_images(tmp_path / "photos", 2)
    write_images(tmp_path / "photos" / "cat" / "2024" / "june", 3, ("home", "away"))
    write_images(tmp_path / "elsewhere", 4, ("more",))
    (tmp_path / "photos" / "dog" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (tmp_path / "photos" / "dog" / "again").symlink_to(tmp_path / "elsewhere" / "more")
    (tmp_path / "photos" / "dog" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "cat" / "self").symlink_to(".")
    (tmp_path / "photos" / "cat" / "note\x1b[31m.t\x1bxt").write_text("")
    (tmp_path / "photos" / "0.png").write_bytes((tmp_path / "photos" / "cat" / "0.png").read_bytes())
    (tmp_path / "photos" / ".cache").mkdir()
    with pytest.warns(UserWarning) as told:
        data = load(f"imagefolder:{tmp_path / 'photos'}")
    labels = torch.cat([data.labels, data.test_labels])
    assert torch.bincount(labels).tolist() == [8, 6]
    (message,) = (str(each.message) for each in told)
    assert message.isprintable() and message.endswith(".")
    for words in (
        "links to a folder that was read already (3)",
        "images beside the sub-folders (1)",
        "hidden files and folders (1)",
        r"files ending in .t\x1bxt (1)",
    ):
        assert words in message


def test_folder_without_classes_or_images_is_refused(tmp_path):
    assert f"{tmp_path} holds no image" in refusal(f"imagefolder:{tmp_path}")
    write_images(tmp_path / "photos", 0)
    assert "and its sub-folders hold no image" in refusal(f"imagefolder:{tmp_path / 'photos'}")
    write_images(tmp_path / "partly")
    (tmp_path / "partly" / "bird").mkdir()
    assert "bird holds no image" in refusal(f"imagefolder:{tmp_path / 'partly'}")
    write_images(tmp_path / "few", 2)
    assert "class 'cat' has 2 samples" in refusal(f"imagefolder:{tmp_path / 'few'}")
    (tmp_path / "file").write_text("")
    refusal(f"imagefolder:{tmp_path / 'file'}", NotADirectoryError)
    write_images(tmp_path / "half" / "train", 3)
    assert "none of test or val" in refusal(f"imagefolder:{tmp_path / 'half'}")


def test_truncated_or_missing_cifar_file_is_named(tmp_path):
    folder = write_cifar(tmp_path / "cifar")
    bad = folder / "data_batch_4.bin"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-100])
    assert f"{bad} has 30630 bytes" in refusal(f"cifar10:{folder}")
    bad.write_bytes(b"\xff" + whole[1:])
    assert f"{bad} holds label 255" in refusal(f"cifar10:{folder}")
    bad.unlink()
    assert f"{bad} does not exist" in refusal(f"cifar10:{folder}", FileNotFoundError)


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_npz_never_unpickles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("objects.npz", images=np.array([Bomb()]), labels=np.array([0]))
    Path("pickle.npz").write_bytes(pickle.dumps(Bomb()))
    for name in ("objects.npz", "pickle.npz"):
        assert "holds objects" in refusal(f"npz:{name}")
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"labels": np.zeros(9, int)}, "has no array 'images' among 'labels'"),
        ({"images": np.zeros((9, 4, 4)), "test_labels": np.zeros(9, int)}, "has test_labels and no labels"),
        ({"images": np.zeros((9, 4)), "labels": np.zeros(9, int)}, "images of .* has shape (9, 4)"),
        ({"images": np.zeros((9, 4, 4, 2)), "labels": np.zeros(9, int)}, "has shape (9, 4, 4, 2)"),
        ({"images": np.full((9, 4, 4), 7.0), "labels": np.zeros(9, int)}, "values from 7.0 to 7.0"),
        ({"images": np.full((9, 4, 4), np.nan), "labels": np.zeros(9, int)}, "values from nan to nan"),
        ({"images": np.zeros((9, 4, 4)), "labels": np.zeros(9)}, "labels of .* dtype float64"),
        ({"images": np.zeros((9, 4, 4)), "labels": np.zeros(8, int)}, "holds 9 images and 8 labels"),
        ({"images": np.zeros((9, 4, 4)), "labels": np.arange(9), "test_images": np.zeros((2, 4, 4))}, "has one of"),
        (
            {
                "images": np.zeros((4, 4, 4)),
                "labels": np.array([0, 1, 0, 1]),
                "test_images": np.zeros((2, 5, 5)),
                "test_labels": np.array([0, 1]),
            },
            "training samples of (1, 4, 4) and test samples of (1, 5, 5)",
        ),
        (
            {
                "images": np.zeros((4, 4, 4)),
                "labels": np.array([0, 1, 0, 1]),
                "test_images": np.zeros((1, 4, 4)),
                "test_labels": np.array([0]),
            },
            "holds out 1 sample",
        ),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, words):
    np.savez(tmp_path / "x.npz", **arrays)
    message = refusal(f"npz:{tmp_path / 'x.npz'}")
    assert all(part in message for part in words.split(" .* "))


def test_truncated_npz_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, images=np.zeros((9, 4, 4)), labels=np.zeros(9, int))
    path.write_bytes(path.read_bytes()[:-200])
    assert "damaged" in refusal(f"npz:{path}")
    np.save(tmp_path / "x.npy", np.zeros(3))
    assert "no .npz file" in refusal(f"npz:{tmp_path / 'x.npy'}")


def test_a_partner_on_the_other_side_of_the_split_is_refused():
    group, inputs = torch.tensor([0, 0, 1, 1]), torch.arange(4.0)[:, None]
    kept = split_by_group(
        "x", "tables", (), inputs, None, "thing", (1,), torch.tensor([[1], [0], [3], [2]]), thing=group
    )
    assert kept.partners.tolist() == [[1], [0]]
    with pytest.raises(ValueError, match="x: a sample and its partner are of two things"):
        split_by_group("x", "tables", (), inputs, None, "thing", (1,), torch.tensor([[2], [0], [3], [2]]), thing=group)
