"""A file that is assembled from chunks: each is checked, then written where it belongs.

Which chunks an earlier attempt left is read from the file itself, by their digests: a chunk that is
missing or damaged is asked for again.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from edgecc.checkpoint import manifest
from edgecc.checkpoint.manifest import File
from edgecc.errors import Corrupt
from edgecc.host.files import store_errors


class Assembly:
    """Assembles `file` at `path`."""

    def __init__(self, path: Path, file: File) -> None:
        self.path, self.file = path, file
        with store_errors(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(self._descriptor, min(os.fstat(self._descriptor).st_size, file.size))
        self._have = set(self._present())
        self._whole, self._hashed = hashlib.sha256(), 0  # of the chunks before this one
        self._hash_on(0, b"")

    def close(self) -> None:
        os.close(self._descriptor)

    def sync(self) -> None:
        """Make what is here durable."""
        with store_errors(self.path):
            os.fsync(self._descriptor)

    def keep(self, index: int, chunk: bytes) -> bool:
        """Write chunk `index`; False, and nothing is written, if it does not match its digest."""
        if not 0 <= index < len(self.file.chunks):
            return False
        if hashlib.sha256(chunk).hexdigest() != self.file.chunks[index]:
            return False
        with store_errors(self.path):
            if os.pwrite(self._descriptor, chunk, index * manifest.CHUNK) < len(chunk):
                raise OSError(None, "no space left")
        self._have.add(index)
        self._hash_on(index, chunk)
        return True

    def check_whole(self) -> None:
        """Once all chunks are here: Corrupt if they are not the file the manifest describes."""
        if self._whole.hexdigest() != self.file.sha256:
            raise Corrupt(f"{self.path}: its chunks match the manifest, its SHA-256 does not")

    def _hash_on(self, index: int, chunk: bytes) -> None:
        """Hash the file up to the first gap; `chunk`, number `index`, need not be read again."""
        while self._hashed in self._have:
            data = chunk if self._hashed == index and chunk else os.pread(
                self._descriptor, manifest.CHUNK, self._hashed * manifest.CHUNK)
            self._whole.update(data)
            self._hashed += 1

    @property
    def whole(self) -> bool:
        return len(self._have) == len(self.file.chunks)

    def missing(self) -> list[int]:
        return [i for i in range(len(self.file.chunks)) if i not in self._have]

    @property
    def size(self) -> int:
        """Bytes of the chunks that are here."""
        return min(len(self._have) * manifest.CHUNK, self.file.size)

    def _present(self) -> Iterator[int]:
        here = -(-os.fstat(self._descriptor).st_size // manifest.CHUNK)
        for index, wanted in enumerate(self.file.chunks[:here]):
            chunk = os.pread(self._descriptor, manifest.CHUNK, index * manifest.CHUNK)
            if hashlib.sha256(chunk).hexdigest() == wanted:
                yield index
