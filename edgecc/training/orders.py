"""Orders to the learner, a JSON line each on its standard input: a growth, or a share of the time.

The learner is asked to pause and does so itself, between two samples, where it holds no lock and no
transaction of the log. It goes on where it was, so pauses never change what it learns.
"""

import json
import math
import os
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

KNOWN = "known.safetensors"  # in a growth's folder, where rows were evicted: what still knows them
_PERIOD = 0.5  # seconds; between two pauses the learner works for its share of that at least
_LONG_PAUSE = 1.0  # seconds from which a pause is announced


@dataclass(frozen=True)
class Order:
    """One growth to run."""

    growth: int
    cursor: int
    recipe: dict[str, Any]
    parent: str  # folder of the generation that serves
    keys: list[str]  # the node's trusted public keys, hex
    log: str  # path of the store
    folder: str  # where this growth works
    input: dict[str, Any]
    plan: dict[str, Any]
    threads: int


class Inbox:
    """The learner's end: orders to follow, and the share of the time that it may work."""

    def __init__(self, descriptor: int, announce: Callable[[float], None]) -> None:
        """announce: called with the seconds of a long pause before it begins."""
        self._descriptor, self._announce = descriptor, announce
        self._orders: deque[Order] = deque()
        self._unread = b""
        self._share, self._working_since = 1.0, time.monotonic()

    def orders(self, idle: float) -> Iterator[Order]:
        """Orders as they come, until there is none for `idle` seconds."""
        while self._orders or self._receive(idle):
            if self._orders:
                yield self._orders.popleft()

    def pause(self) -> None:
        """Return once work may go on: at once with a share of 1, not before it changes with 0."""
        while self._receive(0.0):
            pass
        begun = time.monotonic()
        worked = begun - self._working_since
        if worked < self._share * _PERIOD and self._share < 1:
            return
        if _LONG_PAUSE < self._due(worked) < math.inf:
            self._announce(self._due(worked))
        while (left := self._due(worked) - (time.monotonic() - begun)) > 0:
            self._receive(left)
        self._working_since = time.monotonic()

    def _due(self, worked: float) -> float:
        """Seconds to pause after `worked` seconds of work."""
        return worked * (1 / self._share - 1) if self._share else math.inf

    def _receive(self, timeout: float) -> bool:
        """Take in what comes within `timeout` seconds; False where that is nothing."""
        wait = None if timeout == math.inf else timeout
        if not select.select([self._descriptor], [], [], wait)[0]:
            return False
        data = os.read(self._descriptor, 2**16)
        if not data:
            sys.exit()  # the daemon has gone
        *lines, self._unread = (self._unread + data).split(b"\n")
        for message in map(json.loads, lines):
            if "share" in message:
                self._share = message["share"]
            else:
                self._orders.append(Order(**message))
        return True
