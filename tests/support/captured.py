"""Items, and files of each kind to capture from."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgecc.capture.item import Item


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
