"""One edgecc at a time writes to a state folder; a second one is refused."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecc.errors import ConfigError, StoreError


@contextmanager
def locked(lock: Path, advice: str) -> Iterator[None]:
    """Hold the file `lock`; ConfigError with `advice` if another edgecc holds it."""
    try:
        file = lock.open("w")
    except OSError as error:
        raise StoreError(
            f"cannot write to {lock.parent}: {error.strerror}; see that the disk is sound and "
            "this user may write there") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another edgecc runs on {lock.parent}; {advice}") from error
        file.write(str(os.getpid()))
        file.flush()
        yield
