"""Sensor readings in a CSV file, cut into windows (channels, time).

Every column but the label and `ts` is a channel, in the header's order; every cell of a channel
must be a finite number. The file is read row by row and never held in memory.
"""

import csv
import logging
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edgecc.capture.dataset import npy_bytes
from edgecc.capture.item import Item, Items
from edgecc.errors import ConfigError

LARGEST = float(np.finfo(np.float32).max)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Header:
    """What each column is; `label` and `ts` are column numbers."""

    names: list[str]
    channels: list[int]
    label: int | None
    ts: int | None


@dataclass(frozen=True)
class Row:
    """One reading; `number` counts rows of readings from 1."""

    number: int
    values: list[float]
    label: str | None
    ts: float | None


def open_csv(
    path: Path, *, shape: tuple[int, ...] | None, window: int | None, step: int | None,
    label_column: str | None,
) -> Items:
    """Windows of `window` rows, `step` rows apart; options as in `open_items`."""
    header = next(_records(path), (1, []))[1]
    columns = _header(path, header, label_column)
    if shape is not None:
        window = _check_shape(path, columns, shape, window)
    window = 1 if window is None else window
    step = window if step is None else step
    if window < 1 or step < 1:
        raise ConfigError(f"window {window} and step {step} must be at least 1 row")
    return Items(partial(_windows, path, columns, window, step))


def _check_shape(path: Path, header: Header, shape: tuple[int, ...], window: int | None) -> int:
    if len(shape) != 2:
        raise ConfigError(f"{path}: input.shape {list(shape)} is not [channels, time]")
    if shape[0] != len(header.channels):
        names = ", ".join(header.names[c] for c in header.channels)
        raise ConfigError(
            f"{path}: {len(header.channels)} channels ({names}), but input.shape has {shape[0]}")
    if window not in (None, shape[1]):
        raise ConfigError(f"{path}: window {window}, but input.shape has time {shape[1]}")
    return shape[1]


def _windows(path: Path, header: Header, window: int, step: int) -> Iterator[Item]:
    """A window whose rows disagree on the label is skipped, and counted in the log."""
    held: deque[Row] = deque(maxlen=window)
    sent = skipped = 0
    for row in _rows(path, header):
        held.append(row)
        if row.number < window or (row.number - window) % step:
            continue
        if len({r.label for r in held}) > 1:
            skipped += 1
            continue
        sent += 1
        yield _item(path, list(held))
    if skipped or not sent:
        log.warning("%s: %d windows of %d rows sent, %d skipped because their rows have different "
                    "labels", path, sent, window, skipped)


def _item(path: Path, rows: list[Row]) -> Item:
    first = rows[0]
    values = np.array([r.values for r in rows], dtype=np.float32).T
    payload = npy_bytes(np.ascontiguousarray(values))
    return Item(f"{path.name}:{first.number}", payload, "application/x-npy", first.label, first.ts)


def _rows(path: Path, header: Header) -> Iterator[Row]:
    records = _records(path)
    next(records, None)
    for number, (line, cells) in enumerate(records, start=1):
        if len(cells) != len(header.names):
            raise ConfigError(
                f"{path}: line {line} has {len(cells)} cells, the header {len(header.names)}; "
                "complete the row or remove it")
        yield Row(
            number,
            [_number(path, line, header.names[c], cells[c]) for c in header.channels],
            (cells[header.label] or None) if header.label is not None else None,
            None if header.ts is None else _number(path, line, "ts", cells[header.ts]),
        )


def _number(path: Path, line: int, column: str, cell: str) -> float:
    place = f"{path}: line {line}, column {column!r}"
    if not cell:
        raise ConfigError(f"{place}: the cell is empty; fill it in or remove the row")
    try:
        value = float(cell)
    except ValueError as error:
        raise ConfigError(
            f"{place}: {cell!r} is not a number; correct it, remove the column, or name it "
            "with --label-column if it is the label"
        ) from error
    if not math.isfinite(value) or abs(value) > LARGEST:
        raise ConfigError(
            f"{place}: {cell!r} is not a finite float32; fill in a number or remove the row")
    return value


def _header(path: Path, names: list[str], label_column: str | None) -> Header:
    if not names or not all(names) or len(set(names)) < len(names):
        raise ConfigError(f"{path}: line 1 must name every column, each differently, not {names}")
    if label_column is not None and label_column not in names:
        raise ConfigError(f"{path}: no column {label_column!r}; there are {', '.join(names)}")
    label = label_column if label_column is not None else "label"
    channels = [c for c, name in enumerate(names) if name not in (label, "ts")]
    if not channels:
        raise ConfigError(f"{path}: no channel besides label and ts; add a column of readings")
    return Header(
        names,
        channels,
        names.index(label) if label in names else None,
        names.index("ts") if "ts" in names and label != "ts" else None,
    )


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells, without blank lines."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if cells:
                    yield reader.line_num, [cell.strip() for cell in cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as CSV: {error}") from error
