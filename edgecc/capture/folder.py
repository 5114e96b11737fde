"""Pictures in class folders: PATH/<label>/<file>; files directly in PATH have no label.

The id is the path relative to PATH, and items come in the order of their ids. Each file is read
when its turn comes; other files, unless hidden, are counted and reported once.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from edgecc.capture.item import Item, Items
from edgecc.errors import ConfigError

CONTENT_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".npy": "application/x-npy",
}

log = logging.getLogger(__name__)


def open_folder(root: Path) -> Items:
    """List the files now, read each one when it is asked for."""
    entries = sorted(_walk(root), key=lambda path: path.relative_to(root).as_posix())
    pictures = [path for path in entries if path.suffix.lower() in CONTENT_TYPES]
    if len(pictures) < len(entries):
        _report(root, [path for path in entries if path.suffix.lower() not in CONTENT_TYPES])
    return Items(lambda: (_read(root, path) for path in pictures), total=len(pictures))


def _walk(root: Path) -> Iterator[Path]:
    for entry in _visible(root):
        if entry.is_dir():
            yield from _visible(entry)
        else:
            yield entry


def _visible(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise ConfigError(f"{str(folder)!r} cannot be listed: {error.strerror}") from error


def _report(root: Path, left_out: list[Path]) -> None:
    log.warning("%s: left out %d entries that are not %s, for example %s", root, len(left_out),
                ", ".join(CONTENT_TYPES), left_out[0].relative_to(root).as_posix())


def _read(root: Path, path: Path) -> Item:
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    return Item(
        id=path.relative_to(root).as_posix(),
        payload=payload,
        content_type=CONTENT_TYPES[path.suffix.lower()],
        label=None if path.parent == root else path.parent.name,
    )
