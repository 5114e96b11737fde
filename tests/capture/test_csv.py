"""Windows of sensor readings out of a CSV file."""

import logging
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.captured import array, write_csv

from edgecc.capture.open import open_items
from edgecc.errors import ConfigError


@pytest.fixture
def wine(tmp_path: Path) -> tuple[str, NDArray[np.float64], list[str]]:
    """178 wines: a CSV of thirteen measurements each, the measurements, the labels."""
    wines = import_module("sklearn.datasets").load_wine()
    labels = [str(wines.target_names[t]) for t in wines.target]
    rows = [[*values, label] for values, label in zip(wines.data, labels, strict=True)]
    path = write_csv(tmp_path / "wine.csv", [[*wines.feature_names, "label"], *rows])
    return path, wines.data, labels


Wine = tuple[str, NDArray[np.float64], list[str]]


def test_each_row_is_a_sample_when_no_window_is_given(wine: Wine) -> None:
    path, values, labels = wine
    source = open_items(path)
    items = list(source)
    assert source.total is None
    assert [item.label for item in items] == labels
    assert [item.id for item in items[:2]] == ["wine.csv:1", "wine.csv:2"]
    assert array(items[5]).shape == (13, 1)
    assert array(items[5]).dtype == np.float32
    assert np.array_equal(
        np.stack([array(i)[:, 0] for i in items]), np.asarray(values, dtype=np.float32)
    )
    assert items == list(source) == list(open_items(path, window=1))


def test_a_window_is_channels_by_time_in_the_order_of_the_header(wine: Wine) -> None:
    path, values, _ = wine
    assert [item.id for item in open_items(path, window=50)] == ["wine.csv:1"]
    items = list(open_items(path, window=10, step=3))
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
        items = list(open_items(path, window=10, step=step))
    assert [item.id for item in items] == [f"wine.csv:{s + 1}" for s in pure]
    assert [item.label for item in items] == [labels[s] for s in pure]
    assert len(caplog.records) == (len(pure) < len(starts))
    assert not caplog.records or f"{len(starts) - len(pure)} skipped" in caplog.text


def test_the_shape_of_the_model_gives_the_window(wine: Wine) -> None:
    path, _, _ = wine
    assert list(open_items(path, shape=(13, 10))) == list(open_items(path, window=10))


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
        open_items(wine[0], shape=shape, window=window)


def test_a_step_below_one_is_refused(wine: Wine) -> None:
    with pytest.raises(ConfigError, match="step 0"):
        open_items(wine[0], step=0)


def test_time_and_another_label_column_are_understood(tmp_path: Path) -> None:
    readings: list[list[object]] = [[1.5, 2, "up"], [2.5, 3, "up"], [3.5, 4, ""], [4.5, 5, ""]]
    path = write_csv(tmp_path / "s.csv", [["ts", "x", "state"], *readings])
    first, second = list(open_items(path, window=2, label_column="state"))
    assert (first.label, first.ts) == ("up", 1.5)
    assert (second.label, second.ts) == (None, 3.5)
    assert array(second).tolist() == [[4, 5]]


def test_blank_lines_a_byte_order_mark_and_spaces_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "s.CSV"
    path.write_bytes(b"\xef\xbb\xbflabel, x\r\n\r\na , 1 \r\n\r\nb,2\r\n")
    items = list(open_items(str(path)))
    assert [(i.id, i.label, array(i).item()) for i in items] == [
        ("s.CSV:1", "a", 1),
        ("s.CSV:2", "b", 2),
    ]


def test_a_file_shorter_than_its_window_says_that_nothing_was_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_csv(tmp_path / "s.csv", [["x"], [1], [2]])
    with caplog.at_level(logging.WARNING):
        assert list(open_items(path, window=3)) == []
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
    source = open_items(write_csv(tmp_path / "s.csv", [["x", "y"], [1, 2], row]))
    with pytest.raises(ConfigError, match=f"s.csv: {what}"):
        list(source)


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
        open_items(write_csv(tmp_path / "s.csv", [header]))


def test_a_missing_label_column_is_named_with_those_there_are(wine: Wine) -> None:
    with pytest.raises(ConfigError, match="no column 'kind'; there are alcohol"):
        open_items(wine[0], label_column="kind")


@pytest.mark.parametrize("content", [b"x\n\xff\n", b'x\n"1\n', b'x\n"1"2\n'])
def test_a_file_that_is_no_csv_is_a_named_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=r"s\.csv cannot be read as CSV"):
        list(open_items(str(tmp_path / "s.csv")))


def test_rows_are_read_as_they_are_needed(tmp_path: Path) -> None:
    rows: list[list[object]] = [[i] for i in range(100_000)]
    path = write_csv(tmp_path / "s.csv", [["x"], *rows, ["bad"]])
    assert next(iter(open_items(path))).id == "s.csv:1"
