"""Labelled pictures in MNIST's format, and those that packages bring."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from support.captured import array, write_idx
from support.datasets import FASHION, fashion

from edgecc.capture import dataset
from edgecc.capture.open import open_items
from edgecc.errors import ConfigError


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """Real digits in MNIST's format: the training images plain, the test images compressed."""
    folder = tmp_path / "idx"
    folder.mkdir()
    for split, prefix, suffix in (("train", "train", ""), ("test", "t10k", ".gz")):
        images, labels = dataset.load_digits(split)
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels.astype(np.uint8))
    return folder


def test_idx_images_become_arrays_with_their_labels(idx_folder: Path) -> None:
    images, labels = dataset.load_digits()
    source = open_items(str(idx_folder), shape=(1, 8, 8))
    items = list(source)
    assert source.total == len(items) == len(images)
    assert [item.id for item in items[:2]] == ["train-000000", "train-000001"]
    assert [item.label for item in items] == [str(label) for label in labels]
    assert np.array_equal(np.stack([array(item) for item in items])[:, 0], images)
    assert array(items[0]).dtype == np.uint8
    assert items == list(source) == list(open_items(str(idx_folder)))


def test_naming_the_test_images_streams_the_test_split(idx_folder: Path) -> None:
    items = list(open_items(str(idx_folder / "t10k-images-idx3-ubyte.gz")))
    assert items[7].id == "test-000007"
    images, labels = dataset.load_idx(idx_folder, "test")
    assert np.array_equal(array(items[7])[0], images[7])
    assert items[7].label == str(labels[7])
    assert labels.dtype == np.int64


def test_a_folder_with_test_images_alone_streams_them(idx_folder: Path) -> None:
    (idx_folder / "train-images-idx3-ubyte").unlink()
    assert next(iter(open_items(str(idx_folder)))).id == "test-000000"


def test_images_that_do_not_fit_the_model_are_refused_before_the_first(idx_folder: Path) -> None:
    for path in (str(idx_folder), "digits"):
        with pytest.raises(ConfigError, match=r"\[1, 8, 8\], but input.shape is \[1, 28, 28\]"):
            open_items(path, shape=(1, 28, 28))


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda raw: raw[:-1], "truncated"),
        (lambda raw: raw[:5], "truncated"),
        (lambda raw: b"", "truncated"),
        (lambda raw: raw + b"\0", "promises"),
        (lambda raw: raw[:4] + b"\xff" * 4 + raw[8:], "promises"),
        (lambda raw: b"\0\0\x0d" + raw[3:], "magic number"),
    ],
)
def test_a_damaged_idx_file_is_named_with_what_is_wrong(
    idx_folder: Path, name: str, damage: Callable[[bytes], bytes], what: str
) -> None:
    path = idx_folder / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match=f"{name}.*{what}"):
        open_items(str(idx_folder))


@pytest.mark.parametrize("keep", [0, 5, 100, -1, -9])
def test_a_truncated_gzip_file_is_named(idx_folder: Path, keep: int) -> None:
    path = idx_folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=r"t10k-images-idx3-ubyte\.gz"):
        dataset.load_idx(idx_folder, "test")


def test_a_flipped_bit_in_a_gzip_file_is_found(idx_folder: Path) -> None:
    path = idx_folder / "t10k-images-idx3-ubyte.gz"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=r"t10k-images-idx3-ubyte\.gz"):
        dataset.load_idx(idx_folder, "test")


def test_images_without_their_labels_are_refused(idx_folder: Path) -> None:
    labels = idx_folder / "train-labels-idx1-ubyte"
    write_idx(labels, np.zeros(3, np.uint8))
    with pytest.raises(ConfigError, match=r"1418 images but .* 3 labels"):
        open_items(str(idx_folder))
    labels.unlink()
    with pytest.raises(ConfigError, match="has neither 'train-labels-idx1-ubyte'"):
        open_items(str(idx_folder))


def test_idx_files_of_neither_split_and_unknown_splits_are_refused(idx_folder: Path) -> None:
    with pytest.raises(ConfigError, match="neither 'train' nor 'test'"):
        dataset.load_idx(idx_folder, "validation")
    (idx_folder / "only").mkdir()
    write_idx(idx_folder / "only" / "extra-images-idx3-ubyte", np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(ConfigError, match="extra-images-idx3-ubyte"):
        open_items(str(idx_folder / "only"))


def test_digits_are_split_once_and_for_all_into_four_fifths_and_one() -> None:
    train, train_labels = dataset.load_digits("train")
    test, test_labels = dataset.load_digits("test")
    assert (len(train), len(test)) == (1418, 379)
    assert (len(train_labels), len(test_labels)) == (1418, 379)
    assert train.dtype == np.uint8
    assert train.max() == 255
    digits = import_module("sklearn.datasets").load_digits()
    both = np.concatenate([train, test]).astype(float)
    assert np.isclose(both.sum(), digits.images.sum() * 255 / 16, rtol=1e-3)


def test_the_stream_of_digits_is_the_training_split() -> None:
    source = open_items("digits")
    items = list(source)
    images, labels = dataset.load_digits("train")
    assert source.total == len(items) == len(images)
    assert np.array_equal(np.stack([array(item) for item in items])[:, 0], images)
    assert [item.label for item in items] == [str(label) for label in labels]
    assert items == list(open_items("digits"))
    assert items[-1].id == "digits-001796"
    assert len({item.id for item in items}) == len(items)


def test_fashion_mnist_streams_with_its_class_names() -> None:
    images, classes = fashion()
    source = open_items(str(FASHION), shape=(1, 28, 28))
    first = next(iter(source))
    assert source.total == len(images) == 60_000
    assert (first.id, first.label) == ("train-000000", "ankle-boot")
    assert np.array_equal(array(first)[0], images[0])
    assert {item.label for item, _ in zip(source, range(200), strict=False)} == set(
        dataset.FASHION
    )
    assert np.bincount(classes).tolist() == [6000] * 10


def test_a_class_fashion_mnist_does_not_have_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    write_idx(folder / "train-images-idx3-ubyte", np.zeros((1, 28, 28), np.uint8))
    write_idx(folder / "train-labels-idx1-ubyte", np.array([10], np.uint8))
    with pytest.raises(ConfigError, match="class 10"):
        open_items(str(folder))
