"""Where `edgecc stream PATH` takes its samples from: files in, one `Item` after the other out.

Ids are deterministic, so a stream that is started again sends the same samples under the same
ids, and equal pictures stay two samples. What cannot be read is a ConfigError, never skipped.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgecc.errors import ConfigError

MAX_ID_BYTES = 256
MAX_LABEL_BYTES = 128
ACCEPTED = (
    "a folder of class folders with .jpg, .jpeg, .png or .npy files, "
    "a folder with *-images-idx3-ubyte(.gz) or one such file, a .csv file, a .jsonl file, "
    "'digits', or '-' for JSON lines on standard input"
)


@dataclass(frozen=True)
class Item:
    """One sample to send; `ts` in Unix seconds, `label` None where it is not known."""

    id: str
    payload: bytes
    content_type: str
    label: str | None = None
    ts: float | None = None

    def __post_init__(self) -> None:
        _check_text("id", self.id, at_most=MAX_ID_BYTES)
        if self.label is not None:
            _check_text("label", self.label, at_most=MAX_LABEL_BYTES)


@dataclass(frozen=True)
class Source:
    """Items in a fixed order; `total` is None where only reading to the end would tell."""

    items: Iterable[Item]
    total: int | None


@dataclass(frozen=True)
class Reopened:
    """Items that can be read again: every loop opens them afresh."""

    open: Callable[[], Iterator[Item]]

    def __iter__(self) -> Iterator[Item]:
        return self.open()


def open_source(
    path: str,
    *,
    shape: tuple[int, ...] | None = None,
    window: int | None = None,
    step: int | None = None,
    label_column: str | None = None,
) -> Source:
    """Choose by what `path` is; ConfigError where it is nothing that can be streamed.

    `shape` is the node's input.shape: arrays that cannot fit it are refused before the first
    is sent. The others are for .csv files: `window` rows make one sample (without it, the time
    of `shape` = (channels, time); without both, one row), the next starts `step` rows later.
    """
    place = Path(path)
    if path == "-":
        return _open_stdin()
    if os.path.isdir(path):  # unlike Path.is_dir, it raises for no name
        return _open_folder(place, shape)
    if place.name.endswith(("-images-idx3-ubyte", "-images-idx3-ubyte.gz")):
        from edgecc.capture import dataset

        return dataset.open_images(place, shape=shape)
    if place.suffix.lower() == ".csv":
        from edgecc.capture import csv as sensor

        return sensor.open_csv(
            place, shape=shape, window=window, step=step, label_column=label_column
        )
    return _open_other(path, shape)


def _open_stdin() -> Source:
    from edgecc.capture import jsonl

    return Source(jsonl.read_lines(sys.stdin.buffer, name="stdin", hashed_ids=True), total=None)


def _open_folder(place: Path, shape: tuple[int, ...] | None) -> Source:
    from edgecc.capture import dataset, folder

    if images := dataset.find_images(place):
        return dataset.open_images(images, shape=shape)
    return folder.open_folder(place)


def _open_other(path: str, shape: tuple[int, ...] | None) -> Source:
    from edgecc.capture import dataset, jsonl

    if Path(path).suffix.lower() == ".jsonl":
        return jsonl.open_jsonl(Path(path))
    if path == "digits":
        return dataset.open_digits(shape=shape)
    raise ConfigError(f"{path!r} is nothing that can be streamed; accepted are {ACCEPTED}")


def _check_text(what: str, text: str, *, at_most: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} {text!r} is not valid Unicode; rename it") from error
    if not text or "\0" in text:
        raise ConfigError(f"{what} {text!r} is empty or holds a NUL character; rename it")
    if size > at_most:
        raise ConfigError(f"{what} {text!r} is {size} bytes long; shorten it to {at_most}")
