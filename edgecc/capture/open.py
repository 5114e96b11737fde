"""What `edgecc stream PATH` reads, chosen by what PATH is.

What cannot be read is a ConfigError, never skipped.
"""

import os
import sys
from functools import partial
from pathlib import Path

from edgecc.capture import csv, dataset, folder, jsonl
from edgecc.capture.item import Items
from edgecc.errors import ConfigError

_ACCEPTED = (
    "a folder of class folders with .jpg, .jpeg, .png or .npy files, "
    "a folder with *-images-idx3-ubyte(.gz) or one such file, a .csv file, a .jsonl file, "
    "'digits', or '-' for JSON lines on standard input")


def open_items(
    path: str, *, shape: tuple[int, ...] | None = None, window: int | None = None,
    step: int | None = None, label_column: str | None = None,
) -> Items:
    """The items in `path`; ConfigError where it cannot be streamed.

    `shape` is the node's input.shape: arrays that do not fit it are refused before the first is
    sent. The others are for .csv files: `window` rows make one sample (without it, the time of
    `shape` = (channels, time); without both, one row), the next starts `step` rows later.
    """
    place = Path(path)
    suffix = place.suffix.lower()
    if path == "-":
        return Items(partial(jsonl.read_lines, sys.stdin.buffer, name="stdin", hashed_ids=True))
    if os.path.isdir(path):  # unlike Path.is_dir, never raises
        images = dataset.find_images(place)
        items = dataset.open_images(images, shape=shape) if images else folder.open_folder(place)
    elif place.name.endswith(("-images-idx3-ubyte", "-images-idx3-ubyte.gz")):
        items = dataset.open_images(place, shape=shape)
    elif suffix == ".csv":
        items = csv.open_csv(
            place, shape=shape, window=window, step=step, label_column=label_column)
    elif suffix == ".jsonl":
        items = jsonl.open_jsonl(place)
    elif path == "digits":
        items = dataset.open_digits(shape=shape)
    else:
        raise ConfigError(f"{path!r} cannot be streamed; accepted are {_ACCEPTED}")
    if items.total == 0:
        raise ConfigError(f"{path!r} has nothing to stream; accepted are {_ACCEPTED}")
    return items
