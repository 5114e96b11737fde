"""A file put together from chunks: each is checked, then written where it belongs.

Which chunks are there is read off the file itself, by their digests: whatever stopped an earlier
attempt, and whatever became of the file since, what is there is right or is asked for again.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from edgecc.checkpoint import manifest
from edgecc.checkpoint.manifest import File
from edgecc.errors import Corrupt
from edgecc.host.files import store_errors


class Assembly:
    """Puts `file` together at `path`; use as a context manager, or close it."""

    def __init__(self, path: Path, file: File) -> None:
        self.path, self.file = path, file
        with store_errors(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(self._descriptor, min(os.fstat(self._descriptor).st_size, file.size))
        self._have = set(self._found())
        self._whole, self._hashed = hashlib.sha256(), 0  # of the chunks before this one
        self._hash_on(0, b"")

    def __enter__(self) -> "Assembly":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def sync(self) -> None:
        """Durable once it returns."""
        with store_errors(self.path):
            os.fsync(self._descriptor)

    def keep(self, index: int, chunk: bytes) -> bool:
        """Write chunk `index`; False, and nothing done, where it is not what was vouched for."""
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
        """Corrupt where all chunks are here and do not make the file that was vouched for."""
        if self._whole.hexdigest() != self.file.sha256:
            raise Corrupt(f"{self.path}: its chunks are the manifest's, its SHA-256 is not")

    def _hash_on(self, index: int, chunk: bytes) -> None:
        """The digest of the whole as far as there is no gap; `chunk` need not be read again."""
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
        """Bytes that are there, to the chunk."""
        return min(len(self._have) * manifest.CHUNK, self.file.size)

    def _found(self) -> Iterator[int]:
        here = -(-os.fstat(self._descriptor).st_size // manifest.CHUNK)
        for index, wanted in enumerate(self.file.chunks[:here]):
            chunk = os.pread(self._descriptor, manifest.CHUNK, index * manifest.CHUNK)
            if hashlib.sha256(chunk).hexdigest() == wanted:
                yield index
