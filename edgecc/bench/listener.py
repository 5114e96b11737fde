"""What a node says over MQTT, with the time at which it came: mosquitto_sub, which costs little."""

import json
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from edgecc.errors import ConfigError, EdgeccError

_PATIENCE = 120.0  # seconds


@dataclass(frozen=True)
class Heard:
    at: float  # seconds since 1970
    topic: str
    payload: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.payload)


class Listener:
    """Everything on `topics` of the broker on loopback `port`, in `path`; a context manager."""

    def __init__(self, path: Path, port: int, topics: Sequence[str]) -> None:
        binary = shutil.which("mosquitto_sub")
        if binary is None:
            raise ConfigError("mosquitto_sub is missing: apt install mosquitto-clients")
        self._path, self._read, self._rest = path, 0, b""
        self._waiting: deque[Heard] = deque()
        filters = [word for topic in topics for word in ("-t", topic)]
        with path.open("wb") as file:
            self._process = subprocess.Popen(
                [binary, "-p", str(port), "-q", "1", "-F", "%U %t %p", *filters], stdout=file)

    def __enter__(self) -> "Listener":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)

    def forget(self) -> None:
        """What came so far is of no interest."""
        self._news()
        self._waiting.clear()

    def _news(self) -> list[Heard]:
        """What came since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            found = file.read()
        self._read += len(found)
        *lines, self._rest = (self._rest + found).split(b"\n")
        return [_heard(line) for line in lines]

    def until(self, enough: Callable[[Heard], bool], missing: Callable[[], str]) -> Heard:
        """The first message from now on that is `enough`; those before it are looked at once."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            self._waiting += self._news()
            while self._waiting:
                if enough(heard := self._waiting.popleft()):
                    return heard
            time.sleep(0.02)
        raise EdgeccError(f"{missing()} did not come within {_PATIENCE:.0f} s; see {self._path}")


def _heard(line: bytes) -> Heard:
    at, topic, payload = line.split(b" ", 2)
    return Heard(float(at), topic.decode(), payload)
