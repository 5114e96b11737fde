"""One sample to send, and a series of them that can be read again.

Ids are deterministic, so a stream that is started again sends the same samples under the same
ids, and equal pictures stay two samples.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgecc.errors import ConfigError
from edgecc.protocol.messages import MAX_ID, MAX_LABEL


@dataclass(frozen=True)
class Item:
    """One sample to send; `ts` in Unix seconds, `label` None where it is not known."""

    id: str
    payload: bytes
    content_type: str
    label: str | None = None
    ts: float | None = None

    def __post_init__(self) -> None:
        _check_text("id", self.id, at_most=MAX_ID)
        if self.label is not None:
            _check_text("label", self.label, at_most=MAX_LABEL)


@dataclass(frozen=True)
class Items:
    """Items in a fixed order; every loop reads them from the start."""

    read: Callable[[], Iterator[Item]]
    total: int | None = None  # None: known only at the end

    def __iter__(self) -> Iterator[Item]:
        return self.read()


def _check_text(what: str, text: str, *, at_most: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} {text!r} is not valid Unicode; rename it") from error
    if not text or "\0" in text:
        raise ConfigError(f"{what} {text!r} is empty or holds a NUL character; rename it")
    if size > at_most:
        raise ConfigError(f"{what} {text!r} is {size} bytes long; shorten it to {at_most}")
