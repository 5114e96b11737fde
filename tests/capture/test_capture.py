"""What a PATH is, and pictures in class folders."""

import io
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.captured import write_png

from edgecc.capture import dataset
from edgecc.capture.item import Item
from edgecc.capture.open import open_items
from edgecc.errors import ConfigError


@pytest.fixture
def digit_folder(tmp_path: Path) -> Path:
    """The first forty handwritten digits as PNGs in ten class folders."""
    images, labels = dataset.load_digits()
    for i, (image, label) in enumerate(zip(images[:40], labels, strict=False)):
        write_png(tmp_path / "digits" / str(label) / f"{i:03d}.png", image)
    return tmp_path / "digits"


# what PATH is


def test_importing_capture_loads_neither_pillow_nor_scikit_learn() -> None:
    code = "import edgecc.capture.open, sys; print({'PIL', 'sklearn'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize("path", ["/nowhere", "cat.bmp", "x\0y", "digits.csv.zip"])
def test_a_path_that_is_nothing_known_is_refused_with_what_is_accepted(path: str) -> None:
    with pytest.raises(ConfigError, match=r"class folders.*jsonl.*digits") as error:
        open_items(path)
    assert repr(path) in str(error.value)


@pytest.mark.parametrize("suffix", ["", ".csv", ".jsonl", "-images-idx3-ubyte"])
def test_a_path_the_system_refuses_is_a_config_error(suffix: str) -> None:
    with pytest.raises(ConfigError, match="xxxxx"):
        open_items("x" * 5000 + suffix)


@pytest.mark.parametrize("name", ["missing.csv", "missing.jsonl", "train-images-idx3-ubyte"])
def test_a_missing_file_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        open_items(str(tmp_path / name))


@pytest.mark.parametrize(
    ("text", "what"),
    [("", "empty"), ("a\0b", "NUL"), ("\ud800", "Unicode"), ("ü" * 129, "258 bytes")],
)
def test_an_id_or_label_the_node_would_refuse_is_refused_here(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        Item(text, b"x", "image/png")
    with pytest.raises(ConfigError, match=what):
        Item("id", b"x", "image/png", label=text)


# class folders


def test_pictures_keep_their_bytes_and_take_their_folder_as_label(digit_folder: Path) -> None:
    source = open_items(str(digit_folder))
    items = list(source)
    images, labels = dataset.load_digits()
    assert source.total == len(items) == 40
    for item in items:
        index = int(Path(item.id).stem)
        assert item.label == str(labels[index])
        assert item.payload == (digit_folder / item.id).read_bytes()
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(item.payload))), images[index])


def test_p11_a_folder_gives_the_same_items_in_the_same_order_each_time(digit_folder: Path) -> None:
    source = open_items(str(digit_folder))
    first = list(source)
    assert first == list(source) == list(open_items(str(digit_folder) + "/"))
    assert [item.id for item in first] == sorted(item.id for item in first)


def test_p11_equal_pictures_under_different_names_stay_two_samples(tmp_path: Path) -> None:
    image = dataset.load_digits()[0][0]
    write_png(tmp_path / "zero" / "a.png", image)
    write_png(tmp_path / "zero" / "b.png", image)
    a, b = list(open_items(str(tmp_path)))
    assert a.payload == b.payload
    assert (a.id, b.id) == ("zero/a.png", "zero/b.png")


def test_each_suffix_has_its_content_type_in_any_case(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.jpeg", "c.png", "d.npy"):
        (tmp_path / name).write_bytes(b"content")
    types = {item.id: item.content_type for item in open_items(str(tmp_path))}
    assert types == {
        "a.JPG": "image/jpeg",
        "b.jpeg": "image/jpeg",
        "c.png": "image/png",
        "d.npy": "application/x-npy",
    }


def test_files_outside_class_folders_have_no_label(digit_folder: Path) -> None:
    (digit_folder / "loose.png").write_bytes((digit_folder / "0" / "000.png").read_bytes())
    labels = {item.id: item.label for item in open_items(str(digit_folder))}
    assert labels["loose.png"] is None
    assert labels["0/000.png"] == "0"


def test_other_files_are_reported_once_and_hidden_ones_not_at_all(
    digit_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (digit_folder / "0" / "notes.txt").touch()
    (digit_folder / "readme.md").touch()
    (digit_folder / ".hidden.png").touch()
    (digit_folder / ".git").mkdir()
    (digit_folder / ".git" / "x.png").touch()
    with caplog.at_level(logging.WARNING):
        assert len(list(open_items(str(digit_folder)))) == 40
    assert len(caplog.records) == 1
    assert "left out 2 entries" in caplog.text
    assert "0/notes.txt" in caplog.text


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"nothing to stream.*class folders"):
        open_items(str(tmp_path))


def test_a_picture_that_vanishes_is_a_named_error(digit_folder: Path) -> None:
    source = open_items(str(digit_folder))
    (digit_folder / "0" / "000.png").unlink()
    with pytest.raises(ConfigError, match=r"0/000\.png"):
        list(source)
