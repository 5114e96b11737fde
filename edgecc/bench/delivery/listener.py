"""A node's messages and when each came, by mosquitto_sub, which takes little processor time."""

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
class Received:
    at: float  # seconds since 1970
    topic: str
    payload: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.payload)


class Listener:
    """Writes all that comes on `topics` from the broker on loopback `port` to the file `path`.

    A context manager. retained: a topic with a retained message; once that is here, it listens.
    """

    def __init__(self, path: Path, port: int, topics: Sequence[str], *, retained: str) -> None:
        binary = shutil.which("mosquitto_sub")
        if binary is None:
            raise ConfigError("mosquitto_sub is missing: apt install mosquitto-clients")
        self._path, self._read, self._rest = path, 0, b""
        self._waiting: deque[Received] = deque()
        self._retained, self._listens = retained, False
        filters = [word for topic in (*topics, retained) for word in ("-t", topic)]
        self._command = [binary, "-p", str(port), "-q", "1", "-F", "%U %t %p", *filters]

    def __enter__(self) -> "Listener":
        with self._path.open("wb") as file:
            self._process = subprocess.Popen(self._command, stdout=file)
        deadline = time.monotonic() + _PATIENCE
        while not self._listens:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise EdgeccError(f"{self._command[0]} heard nothing retained on {self._retained}")
            time.sleep(0.02)
            self._waiting += self._news()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)

    def forget(self) -> None:
        """Skip what has come so far."""
        self._news()
        self._waiting.clear()

    def _news(self) -> list[Received]:
        """The messages that came since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        self._read += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        messages = [_received(line) for line in lines]
        self._listens |= any(message.topic == self._retained for message in messages)
        return [message for message in messages if message.topic != self._retained]

    def until(self, enough: Callable[[Received], bool], missing: Callable[[], str]) -> Received:
        """Wait for the first message that is `enough`; earlier ones are looked at once."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            self._waiting += self._news()
            while self._waiting:
                if enough(message := self._waiting.popleft()):
                    return message
            time.sleep(0.02)
        raise EdgeccError(f"{missing()} did not come within {_PATIENCE:.0f} s; see {self._path}")


def _received(line: bytes) -> Received:
    at, topic, payload = line.split(b" ", 2)
    return Received(float(at), topic.decode(), payload)
