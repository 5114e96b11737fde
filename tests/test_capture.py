import base64
import csv
import gzip
import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgecc.capture import Item, Source, dataset, jsonl, open_source
from edgecc.errors import ConfigError

FASHION = Path("/usr/share/datasets/fashion-mnist")
needs_fashion = pytest.mark.skipif(
    not FASHION.is_dir(),
    reason=f"needs Fashion-MNIST: apt install dataset-fashion-mnist ({FASHION})",
)


def read(source: Source) -> list[Item]:
    return list(source.items)


def array(item: Item) -> NDArray[np.float32]:
    loaded: NDArray[np.float32] = np.load(io.BytesIO(item.payload), allow_pickle=False)
    return loaded


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    header = np.array([0x0800 + values.ndim, *values.shape], ">u4").tobytes()
    content = header + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_csv(path: Path, rows: Sequence[Sequence[object]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def write_jsonl(path: Path, *lines: object) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def digit_folder(tmp_path: Path) -> Path:
    """The first forty handwritten digits as PNGs in ten class folders."""
    images, labels = dataset.load_digits()
    for i, (image, label) in enumerate(zip(images[:40], labels, strict=False)):
        write_png(tmp_path / "digits" / str(label) / f"{i:03d}.png", image)
    return tmp_path / "digits"


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


@pytest.fixture
def wine(tmp_path: Path) -> tuple[str, NDArray[np.float64], list[str]]:
    """178 wines: a CSV of thirteen measurements each, the measurements, the labels."""
    wines = import_module("sklearn.datasets").load_wine()
    labels = [str(wines.target_names[t]) for t in wines.target]
    rows = [[*values, label] for values, label in zip(wines.data, labels, strict=True)]
    path = write_csv(tmp_path / "wine.csv", [[*wines.feature_names, "label"], *rows])
    return path, wines.data, labels


# what PATH is


def test_importing_capture_loads_neither_numpy_nor_pillow() -> None:
    code = "import edgecc.capture, sys; print({'numpy', 'PIL', 'sklearn'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize("path", ["/nowhere", "cat.bmp", "x\0y", "digits.csv.zip"])
def test_a_path_that_is_nothing_known_is_refused_with_what_is_accepted(path: str) -> None:
    with pytest.raises(ConfigError, match=r"class folders.*jsonl.*digits") as error:
        open_source(path)
    assert repr(path) in str(error.value)


@pytest.mark.parametrize("suffix", ["", ".csv", ".jsonl", "-images-idx3-ubyte"])
def test_a_path_the_system_refuses_is_a_config_error(suffix: str) -> None:
    with pytest.raises(ConfigError, match="xxxxx"):
        open_source("x" * 5000 + suffix)


@pytest.mark.parametrize("name", ["missing.csv", "missing.jsonl", "train-images-idx3-ubyte"])
def test_a_missing_file_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        open_source(str(tmp_path / name))


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
    source = open_source(str(digit_folder))
    items = read(source)
    images, labels = dataset.load_digits()
    assert source.total == len(items) == 40
    for item in items:
        index = int(Path(item.id).stem)
        assert item.label == str(labels[index])
        assert item.payload == (digit_folder / item.id).read_bytes()
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(item.payload))), images[index])


def test_p11_a_folder_gives_the_same_items_in_the_same_order_each_time(digit_folder: Path) -> None:
    source = open_source(str(digit_folder))
    first = read(source)
    assert first == read(source) == read(open_source(str(digit_folder) + "/"))
    assert [item.id for item in first] == sorted(item.id for item in first)


def test_p11_equal_pictures_under_different_names_stay_two_samples(tmp_path: Path) -> None:
    image = dataset.load_digits()[0][0]
    write_png(tmp_path / "zero" / "a.png", image)
    write_png(tmp_path / "zero" / "b.png", image)
    a, b = read(open_source(str(tmp_path)))
    assert a.payload == b.payload
    assert (a.id, b.id) == ("zero/a.png", "zero/b.png")


def test_each_suffix_has_its_content_type_in_any_case(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.jpeg", "c.png", "d.npy"):
        (tmp_path / name).write_bytes(b"content")
    found = {item.id: item.content_type for item in read(open_source(str(tmp_path)))}
    assert found == {
        "a.JPG": "image/jpeg",
        "b.jpeg": "image/jpeg",
        "c.png": "image/png",
        "d.npy": "application/x-npy",
    }


def test_files_outside_class_folders_have_no_label(digit_folder: Path) -> None:
    (digit_folder / "loose.png").write_bytes((digit_folder / "0" / "000.png").read_bytes())
    labels = {item.id: item.label for item in read(open_source(str(digit_folder)))}
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
        assert len(read(open_source(str(digit_folder)))) == 40
    assert len(caplog.records) == 1
    assert "left out 2 entries" in caplog.text
    assert "0/notes.txt" in caplog.text


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"nothing to stream.*class folders"):
        open_source(str(tmp_path))


def test_a_picture_that_vanishes_is_a_named_error(digit_folder: Path) -> None:
    source = open_source(str(digit_folder))
    (digit_folder / "0" / "000.png").unlink()
    with pytest.raises(ConfigError, match=r"0/000\.png"):
        read(source)


# data sets


def test_idx_images_become_arrays_with_their_labels(idx_folder: Path) -> None:
    images, labels = dataset.load_digits()
    source = open_source(str(idx_folder), shape=(1, 8, 8))
    items = read(source)
    assert source.total == len(items) == len(images)
    assert [item.id for item in items[:2]] == ["train-000000", "train-000001"]
    assert [item.label for item in items] == [str(label) for label in labels]
    assert np.array_equal(np.stack([array(item) for item in items])[:, 0], images)
    assert array(items[0]).dtype == np.uint8
    assert items == read(source) == read(open_source(str(idx_folder)))


def test_naming_the_test_images_streams_the_test_split(idx_folder: Path) -> None:
    items = read(open_source(str(idx_folder / "t10k-images-idx3-ubyte.gz")))
    assert items[7].id == "test-000007"
    images, labels = dataset.load_idx(idx_folder, "test")
    assert np.array_equal(array(items[7])[0], images[7])
    assert items[7].label == str(labels[7])
    assert labels.dtype == np.int64


def test_a_folder_with_test_images_alone_streams_them(idx_folder: Path) -> None:
    (idx_folder / "train-images-idx3-ubyte").unlink()
    assert next(iter(open_source(str(idx_folder)).items)).id == "test-000000"


def test_images_that_do_not_fit_the_model_are_refused_before_the_first(idx_folder: Path) -> None:
    for path in (str(idx_folder), "digits"):
        with pytest.raises(ConfigError, match=r"\[1, 8, 8\], but input.shape is \[1, 28, 28\]"):
            open_source(path, shape=(1, 28, 28))


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
        open_source(str(idx_folder))


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
        open_source(str(idx_folder))
    labels.unlink()
    with pytest.raises(ConfigError, match="has neither 'train-labels-idx1-ubyte'"):
        open_source(str(idx_folder))


def test_idx_files_of_neither_split_and_unknown_splits_are_refused(idx_folder: Path) -> None:
    with pytest.raises(ConfigError, match="neither 'train' nor 'test'"):
        dataset.load_idx(idx_folder, "validation")
    (idx_folder / "only").mkdir()
    write_idx(idx_folder / "only" / "extra-images-idx3-ubyte", np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(ConfigError, match="extra-images-idx3-ubyte"):
        open_source(str(idx_folder / "only"))


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
    source = open_source("digits")
    items = read(source)
    images, labels = dataset.load_digits("train")
    assert source.total == len(items) == len(images)
    assert np.array_equal(np.stack([array(item) for item in items])[:, 0], images)
    assert [item.label for item in items] == [str(label) for label in labels]
    assert items == read(open_source("digits"))
    assert items[-1].id == "digits-001796"
    assert len({item.id for item in items}) == len(items)


@needs_fashion
def test_fashion_mnist_streams_with_its_class_names() -> None:
    source = open_source(str(FASHION), shape=(1, 28, 28))
    images, classes = dataset.load_idx(FASHION)
    first = next(iter(source.items))
    assert source.total == len(images) == 60_000
    assert (first.id, first.label) == ("train-000000", "ankle-boot")
    assert np.array_equal(array(first)[0], images[0])
    assert {item.label for item, _ in zip(source.items, range(200), strict=False)} == set(
        dataset.FASHION
    )
    assert np.bincount(classes).tolist() == [6000] * 10


def test_a_class_fashion_mnist_does_not_have_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    write_idx(folder / "train-images-idx3-ubyte", np.zeros((1, 28, 28), np.uint8))
    write_idx(folder / "train-labels-idx1-ubyte", np.array([10], np.uint8))
    with pytest.raises(ConfigError, match="class 10"):
        open_source(str(folder))


# sensor readings


Wine = tuple[str, NDArray[np.float64], list[str]]


def test_each_row_is_a_sample_when_no_window_is_given(wine: Wine) -> None:
    path, values, labels = wine
    source = open_source(path)
    items = read(source)
    assert source.total is None
    assert [item.label for item in items] == labels
    assert [item.id for item in items[:2]] == ["wine.csv:1", "wine.csv:2"]
    assert array(items[5]).shape == (13, 1)
    assert array(items[5]).dtype == np.float32
    assert np.array_equal(
        np.stack([array(i)[:, 0] for i in items]), np.asarray(values, dtype=np.float32)
    )
    assert items == read(source) == read(open_source(path, window=1))


def test_a_window_is_channels_by_time_in_the_order_of_the_header(wine: Wine) -> None:
    path, values, _ = wine
    assert [item.id for item in read(open_source(path, window=50))] == ["wine.csv:1"]
    items = read(open_source(path, window=10, step=3))
    second = items[1]
    assert second.id == "wine.csv:4"
    assert np.array_equal(array(second), values[3:13].T.astype(np.float32))


@pytest.mark.parametrize("step", [1, 4, 10, 25])
def test_a_window_across_two_labels_is_skipped_and_counted(
    wine: Wine, step: int, caplog: pytest.LogCaptureFixture
) -> None:
    path, _, labels = wine
    starts = range(0, len(labels) - 9, step)
    pure = [s for s in starts if len(set(labels[s : s + 10])) == 1]
    with caplog.at_level(logging.WARNING):
        items = read(open_source(path, window=10, step=step))
    assert [item.id for item in items] == [f"wine.csv:{s + 1}" for s in pure]
    assert [item.label for item in items] == [labels[s] for s in pure]
    assert len(caplog.records) == (len(pure) < len(starts))
    assert not caplog.records or f"{len(starts) - len(pure)} skipped" in caplog.text


def test_the_shape_of_the_model_gives_the_window(wine: Wine) -> None:
    path, _, _ = wine
    assert read(open_source(path, shape=(13, 10))) == read(open_source(path, window=10))


@pytest.mark.parametrize(
    ("shape", "window", "what"),
    [
        ((12, 10), None, "13 channels .*alcohol.* has 12"),
        ((13, 10), 9, "window 9, but input.shape has time 10"),
        ((1, 28, 28), None, "is not .channels, time."),
        (None, 0, "at least 1"),
        (None, -3, "at least 1"),
    ],
)
def test_a_window_that_cannot_fit_is_refused_before_the_first(
    wine: Wine, shape: tuple[int, ...] | None, window: int | None, what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        open_source(wine[0], shape=shape, window=window)


def test_a_step_below_one_is_refused(wine: Wine) -> None:
    with pytest.raises(ConfigError, match="step 0"):
        open_source(wine[0], step=0)


def test_time_and_another_label_column_are_understood(tmp_path: Path) -> None:
    readings: list[list[object]] = [[1.5, 2, "up"], [2.5, 3, "up"], [3.5, 4, ""], [4.5, 5, ""]]
    path = write_csv(tmp_path / "s.csv", [["ts", "x", "state"], *readings])
    first, second = read(open_source(path, window=2, label_column="state"))
    assert (first.label, first.ts) == ("up", 1.5)
    assert (second.label, second.ts) == (None, 3.5)
    assert array(second).tolist() == [[4, 5]]


def test_blank_lines_a_byte_order_mark_and_spaces_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "s.CSV"
    path.write_bytes(b"\xef\xbb\xbflabel, x\r\n\r\na , 1 \r\n\r\nb,2\r\n")
    items = read(open_source(str(path)))
    assert [(i.id, i.label, array(i).item()) for i in items] == [
        ("s.CSV:1", "a", 1),
        ("s.CSV:2", "b", 2),
    ]


def test_a_file_shorter_than_its_window_says_that_nothing_was_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_csv(tmp_path / "s.csv", [["x"], [1], [2]])
    with caplog.at_level(logging.WARNING):
        assert read(open_source(path, window=3)) == []
    assert "0 windows of 3 rows sent" in caplog.text


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (["1", "warm"], "line 3, column 'y': 'warm' is not a number.*--label-column"),
        (["", "1"], "line 3, column 'x': the cell is empty; fill it in"),
        (["nan", "1"], "line 3, column 'x': 'nan' is not a finite.*fill in"),
        (["1", "-inf"], "line 3, column 'y': '-inf' is not a finite"),
        (["1", "1e39"], "line 3, column 'y': '1e39' is not a finite float32"),
        (["1"], "line 3 has 1 cells, the header 2; complete"),
        (["1", "2", "3"], "line 3 has 3 cells"),
    ],
)
def test_a_bad_cell_is_named_by_file_line_and_column(
    tmp_path: Path, row: list[object], what: str
) -> None:
    source = open_source(write_csv(tmp_path / "s.csv", [["x", "y"], [1, 2], row]))
    with pytest.raises(ConfigError, match=f"s.csv: {what}"):
        read(source)


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ([], "line 1 must name every column"),
        (["x", ""], "line 1 must name every column"),
        (["x", "x"], "line 1 must name every column"),
        (["ts", "label"], "no channel"),
    ],
)
def test_a_header_that_names_no_channels_is_refused(
    tmp_path: Path, header: list[object], what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        open_source(write_csv(tmp_path / "s.csv", [header]))


def test_a_missing_label_column_is_named_with_those_there_are(wine: Wine) -> None:
    with pytest.raises(ConfigError, match="no column 'kind'; there are alcohol"):
        open_source(wine[0], label_column="kind")


@pytest.mark.parametrize("content", [b"x\n\xff\n", b'x\n"1\n', b'x\n"1"2\n'])
def test_a_file_that_is_no_csv_is_a_named_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=r"s\.csv cannot be read as CSV"):
        read(open_source(str(tmp_path / "s.csv")))


def test_rows_are_read_as_they_are_needed(tmp_path: Path) -> None:
    rows: list[list[object]] = [[i] for i in range(100_000)]
    path = write_csv(tmp_path / "s.csv", [["x"], *rows, ["bad"]])
    assert next(iter(open_source(path).items)).id == "s.csv:1"


# JSON lines


def test_numbers_and_channels_stay_json_and_pictures_become_bytes(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(dataset.load_digits()[0][0]).save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    path = write_jsonl(
        tmp_path / "s.jsonl",
        {"data": [1, 2.5], "label": "a", "ts": 12, "unknown": True},
        {"data": {"x": [1, 2], "y": [3, 4]}, "id": "mine", "label": 7},
        {"data": picture, "content_type": "image/png"},
    )
    numbers, channels, image = read(open_source(path))
    assert numbers == Item("s.jsonl:1", b"[1,2.5]", "application/json", "a", 12.0)
    assert channels == Item("mine", b'{"x":[1,2],"y":[3,4]}', "application/json", "7")
    assert image == Item("s.jsonl:3", buffer.getvalue(), "image/png")


def test_json_lines_give_the_same_items_each_time_and_skip_blank_ones(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"data":[1]}\r\n\r\n{"data":[1]}')
    source = open_source(str(path))
    items = read(source)
    assert [item.id for item in items] == ["s.jsonl:1", "s.jsonl:3"]
    assert items == read(source) == read(open_source(str(path)))


def stream_stdin(lines: str) -> list[str]:
    code = "from edgecc.capture import open_source\nfor i in open_source('-').items: print(i.id)"
    run = subprocess.run(
        [sys.executable, "-c", code], input=lines, capture_output=True, text=True, check=True
    )
    return run.stdout.splitlines()


def test_a_pipe_repeats_its_ids_only_for_the_lines_it_repeats() -> None:
    first = stream_stdin('{"data":[1]}\n{"data":[2]}\n{"data":[2],"id":"mine"}\n')
    assert first == stream_stdin('{"data":[1]}\n{"data":[2]}\n{"data":[2],"id":"mine"}\n')
    assert first[0].startswith("stdin:1:")
    assert first[2] == "mine"
    other = stream_stdin('{"data":[1]}\n{"data":[3]}\n')
    assert other[0] == first[0]
    assert other[1] != first[1]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"{", "Expecting"),
        (b"\xff", "decode"),
        (b"[1]", "not a JSON object"),
        (b"{}", "data must be an array"),
        (b'{"data":[]}', "data must be an array"),
        (b'{"data":{}}', "at least one channel"),
        (b'{"data":{"x":[1],"y":[1,2]}}', "same length"),
        (b'{"data":{"x":1}}', "data must be an array"),
        (b'{"data":[true]}', "'True', which is not a finite number"),
        (b'{"data":["1"]}', "not a finite number"),
        (b'{"data":[NaN]}', "NaN is not a finite number"),
        (b'{"data":[1e999]}', "'inf', which is not a finite number"),
        (b'{"data":[1' + b"0" * 400 + b"]}", "not a finite number"),
        (b'{"data":[1],"content_type":"image/png"}', "must be base64 text"),
        (b'{"data":"AAAA"}', "needs a content_type of image/jpeg"),
        (b'{"data":"AAAA","content_type":"text/html"}', "needs a content_type"),
        (b'{"data":"AAA","content_type":"image/png"}', "data is not base64"),
        (b'{"data":"AAAA*","content_type":"image/png"}', "data is not base64"),
        (b'{"data":"","content_type":"image/png"}', "data is empty"),
        (b'{"data":[1],"id":""}', "id must be text"),
        (b'{"data":[1],"label":true}', "label must be text"),
        (b'{"data":[1],"label":"\\ud800"}', "not valid Unicode"),
        (b'{"data":[1],"ts":"now"}', "ts must be a number of seconds"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_bad_line_is_named_by_its_number_and_reason(
    tmp_path: Path, line: bytes, what: str
) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(b'{"data":[1]}\n' + line + b"\n")
    items = iter(open_source(str(path)).items)
    next(items)
    with pytest.raises(ConfigError, match=rf"^s\.jsonl:2: .*{what}"):
        next(items)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
numbers = st.lists(st.integers() | st.floats(), max_size=4)
readings = json_values | numbers | st.dictionaries(st.text(max_size=3), numbers, max_size=3)
encoded = st.binary(max_size=20).map(lambda raw: base64.b64encode(raw).decode())
objects = st.fixed_dictionaries(
    {"data": readings | encoded},
    optional={
        "id": json_values | st.text(),
        "label": json_values | st.text(),
        "ts": json_values | st.floats(),
        "content_type": json_values | st.sampled_from([*jsonl.BINARY, "application/json"]),
    },
).map(lambda value: json.dumps(value).encode())


@given(st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode()) | objects)
def test_any_line_gives_an_item_or_a_config_error(line: bytes) -> None:
    try:
        items = list(jsonl.read_lines([line], name="any"))
    except ConfigError:
        return
    assert len(items) == bool(line.strip())
    for item in items:
        assert item.payload
        assert item.id
        assert item.content_type in (*jsonl.BINARY, "application/json")
        if item.content_type == "application/json":
            decoded = json.loads(item.payload)
            rows = list(decoded.values()) if isinstance(decoded, dict) else [decoded]
            assert np.isfinite(np.array(rows, dtype=np.float64)).all()
