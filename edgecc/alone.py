"""One edgecc writes to a state; who comes second is told so."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecc.errors import ConfigError


@contextmanager
def alone(state: Path, advice: str) -> Iterator[None]:
    """Hold the lock of `state`; ConfigError with `advice` where another edgecc does."""
    with (state / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another edgecc runs on {state}; {advice}") from error
        file.write(str(os.getpid()))
        file.flush()
        yield
