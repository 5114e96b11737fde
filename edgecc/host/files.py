"""Durable files: what is written here survives a power cut, whole or as it was before."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from edgecc.errors import StorageFull, StoreError


def write(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a file that is durable once this returns; a new file has the permissions `mode`."""
    with open(path, "wb", opener=partial(os.open, mode=mode)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a file that is whole and durable, or as it was before."""
    part = path.with_suffix(".part")
    try:
        write(part, data, mode=mode)
    except OSError:
        part.unlink(missing_ok=True)  # on a full disk, room for others
        raise
    part.replace(path)
    sync(path.parent)


def rename(folder: Path, target: Path) -> None:
    """Give a folder, whose files are durable, its final name; durable once this returns."""
    sync(folder)
    folder.rename(target)
    sync(target.parent)


def sync(folder: Path) -> None:
    """Make durable which files a folder has."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Raise StoreError with the place and what to do where the file system refuses."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; what has arrived so far is kept: free some "
                         "space or check the permissions, then repeat the command") from error


def is_full(error: Exception) -> bool:
    """True if an error says that the disk is full."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or isinstance(error, StorageFull)
