"""One edgecc writes to a state; who comes second is told so."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from edgecc.errors import ConfigError, StoreError


@contextmanager
def alone(state: Path, advice: str) -> Iterator[None]:
    """Hold the lock of `state`; ConfigError with `advice` where another edgecc does."""
    with _opened(state / "lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another edgecc runs on {state}; {advice}") from error
        file.write(str(os.getpid()))
        file.flush()
        yield


def _opened(lock: Path) -> TextIO:
    try:
        return lock.open("w")
    except OSError as error:
        raise StoreError(
            f"cannot write to {lock.parent}: {error.strerror}; see that the disk is sound and "
            "this user may write there") from error
