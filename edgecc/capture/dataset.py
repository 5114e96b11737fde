"""Image data sets: IDX files (MNIST, Fashion-MNIST, KMNIST) and scikit-learn's digits.

Arrays for benches and the demo, items for the stream: the training split, unless the path names the
test images. A file that contradicts its header is a ConfigError.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecc.capture.item import Item, Items
from edgecc.errors import ConfigError

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]

PREFIXES = {"train": "train", "test": "t10k"}
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
           "ankle-boot")


def load_idx(folder: str | Path, split: str = "train") -> Arrays:
    """Images (N, height, width) uint8 and their classes (N,) int64; split 'train' or 'test'."""
    return _load_pair(_find(Path(folder), f"{_prefix(split)}-images-idx3-ubyte"))


def load_digits(split: str = "train") -> Arrays:
    """Images (N, 8, 8) uint8 from 0 to 255 and their classes (N,) int64; four fifths train."""
    images, labels, rows = _digits(split)
    return images[rows], labels[rows]


def find_images(folder: Path) -> Path | None:
    """The IDX images in `folder`: the training split, or the test split if it is alone."""
    paths = [*folder.glob("*-images-idx3-ubyte"), *folder.glob("*-images-idx3-ubyte.gz")]
    known = [f"{prefix}-images" for prefix in PREFIXES.values()]
    return min(paths, default=None, key=lambda path: (
        [not path.name.startswith(name) for name in known], path))


def open_images(path: Path, *, shape: tuple[int, ...] | None = None) -> Items:
    """Items 'train-000000' or 'test-000000' and so on, each an array (1, height, width)."""
    split = next((s for s, p in PREFIXES.items() if path.name.startswith(f"{p}-images")), None)
    if split is None:
        raise ConfigError(f"{str(path)!r}: the name starts with neither train nor t10k")
    images, classes = _load_pair(path)
    _check_shape(str(path), images, shape)
    return _items(split, np.arange(len(images)), images, _label_names(path, classes))


def open_digits(*, shape: tuple[int, ...] | None = None) -> Items:
    """The training split as items 'digits-000000' and so on, numbered as in scikit-learn."""
    images, classes, rows = _digits("train")
    _check_shape("digits", images, shape)
    return _items("digits", rows, images, [str(c) for c in classes])


def npy_bytes(array: NDArray[Any]) -> bytes:
    """The array as the bytes of a .npy file."""
    file = BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def _items(
    name: str, rows: NDArray[np.int64], images: NDArray[np.uint8], labels: list[str]
) -> Items:
    def read() -> Iterator[Item]:
        for row in rows:
            payload = npy_bytes(images[row][np.newaxis])
            yield Item(f"{name}-{row:06d}", payload, "application/x-npy", labels[row])

    return Items(read, total=len(rows))


def _check_shape(name: str, images: NDArray[np.uint8], shape: tuple[int, ...] | None) -> None:
    own = (1, *images.shape[1:])
    if shape not in (None, own):
        raise ConfigError(
            f"{name!r} has images of {list(own)}, but input.shape is {list(shape or ())}; "
            f"set input.shape to {list(own)} with input.kind image")


def _load_pair(images_path: Path) -> Arrays:
    images = _read_idx(images_path, dimensions=3)
    stem = images_path.name.removesuffix(".gz").removesuffix("-images-idx3-ubyte")
    labels_path = _find(images_path.parent, f"{stem}-labels-idx1-ubyte")
    labels = _read_idx(labels_path, dimensions=1)
    if len(images) != len(labels):
        raise ConfigError(
            f"{str(images_path)!r} has {len(images)} images but {labels_path.name!r} "
            f"has {len(labels)} labels; fetch both files again")
    return images, labels.astype(np.int64)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise ConfigError(f"{str(folder)!r} has neither {name!r} nor {name + '.gz'!r}")


def _read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """IDX: magic 0x0000 08 <dimensions>, big-endian sizes, then bytes."""
    raw = _read(path)
    start = 4 + 4 * dimensions
    if len(raw) < start:
        raise ConfigError(f"{str(path)!r} is truncated: {len(raw)} bytes, the header has {start}")
    magic, *sizes = (int(n) for n in np.frombuffer(raw, ">u4", count=1 + dimensions))
    if magic != 0x0800 + dimensions:
        raise ConfigError(f"{str(path)!r}: magic number {magic}, not {0x0800 + dimensions}")
    promised = start + int(np.prod(sizes, dtype=object))
    if len(raw) != promised:
        raise ConfigError(
            f"{str(path)!r} is truncated or corrupt: {len(raw)} bytes, its header "
            f"promises {promised}; fetch it again")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(sizes)


def _read(path: Path) -> bytes:
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return file.read()
        return path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error}; fetch it again") from error


def _label_names(path: Path, classes: NDArray[np.int64]) -> list[str]:
    folders = path.resolve().parent.parts[-2:]
    if not any("fashion" in part.lower() for part in folders):
        return [str(c) for c in classes]
    if classes.max(initial=0) >= len(FASHION):
        raise ConfigError(f"{str(path)!r}: class {classes.max()} is not one of Fashion-MNIST's 10")
    return [FASHION[c] for c in classes]


def _digits(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    _prefix(split)
    try:
        digits = import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise ConfigError("'digits' comes with scikit-learn: pip install scikit-learn") from error
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)
    in_test = np.array([_is_test(row) for row in range(len(images))])
    rows = np.flatnonzero(in_test if split == "test" else ~in_test)
    return images, digits.target.astype(np.int64), rows


def _is_test(row: int) -> bool:
    digest = hashlib.sha256(f"digits-{row:06d}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 5 == 0


def _prefix(split: str) -> str:
    if split not in PREFIXES:
        raise ConfigError(f"split {split!r} is neither 'train' nor 'test'")
    return PREFIXES[split]
