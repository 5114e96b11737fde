"""JSON lines: one object per line, {id?, label?, ts?, content_type?, data}.

`data` is an array of numbers, an object of equally long arrays by channel, or base64 text with
its content type. Unknown fields are ignored; a bad line is a ConfigError with its number.
"""

import base64
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from edgecc.capture.item import Item, Items
from edgecc.errors import ConfigError

BINARY = ("image/jpeg", "image/png", "application/x-npy")


def open_jsonl(path: Path) -> Items:
    """A file; a line without an id is '<file name>:<line number>'."""

    def read() -> Iterator[Item]:
        try:
            with path.open("rb") as file:
                yield from read_lines(file, name=path.name)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error

    if not os.path.isfile(path):
        raise ConfigError(f"{path} is not a file")
    return Items(read)


def read_lines(lines: Iterable[bytes], *, name: str, hashed_ids: bool = False) -> Iterator[Item]:
    """Items of the lines, blank ones left out.

    With `hashed_ids` a default id ends in a digest of the line: line 1 of tomorrow's pipe must not
    be taken for a duplicate of today's.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            digest = f":{hashlib.sha256(line.strip()).hexdigest()[:16]}" if hashed_ids else ""
            yield _parse(line, default_id=f"{name}:{number}{digest}", place=f"{name}:{number}")


def _parse(line: bytes, *, default_id: str, place: str) -> Item:
    try:
        fields = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse)
        if not isinstance(fields, dict):
            raise ValueError("not a JSON object")
        return _item(fields, default_id)
    except (ValueError, RecursionError, ConfigError) as error:
        raise ConfigError(f"{place}: {error}") from error


def _item(fields: dict[str, Any], default_id: str) -> Item:
    payload, content_type = _payload(fields)
    return Item(
        id=_text(fields, "id") or default_id,
        payload=payload,
        content_type=content_type,
        label=_text(fields, "label"),
        ts=_seconds(fields.get("ts")),
    )


def _payload(fields: dict[str, Any]) -> tuple[bytes, str]:
    reading, content_type = fields.get("data"), fields.get("content_type")
    if isinstance(reading, str):
        return _decode(reading, content_type)
    if content_type not in (None, "application/json"):
        raise ValueError(f"data of content_type {content_type!r} must be base64 text")
    _check_reading(reading)
    return json.dumps(reading, separators=(",", ":")).encode(), "application/json"


def _decode(text: str, content_type: object) -> tuple[bytes, str]:
    if not isinstance(content_type, str) or content_type not in BINARY:
        raise ValueError(f"base64 data needs a content_type of {', '.join(BINARY)}")
    try:
        payload = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"data is not base64: {error}") from error
    if not payload:
        raise ValueError("data is empty")
    return payload, content_type


def _check_reading(reading: object) -> None:
    channels = list(reading.values()) if isinstance(reading, dict) else [reading]
    lengths = set()
    for channel in channels:
        if not isinstance(channel, list) or not channel:
            raise ValueError("data must be an array of numbers or {channel: array of numbers}")
        if bad := [number for number in channel if not _is_finite(number)]:
            raise ValueError(f"data holds {str(bad[0])[:40]!r}, which is not a finite number")
        lengths.add(len(channel))
    if len(lengths) != 1:
        raise ValueError("data needs at least one channel, and channels of the same length")


def _is_finite(number: object) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    try:
        return math.isfinite(float(number))
    except OverflowError:
        return False


def _text(fields: dict[str, Any], key: str) -> str | None:
    value = fields.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or (isinstance(value, str) and value):
        return value
    raise ValueError(f"{key} must be text that is not empty, or left out")


def _seconds(ts: object) -> float | None:
    if ts is None:
        return None
    if not _is_finite(ts):
        raise ValueError("ts must be a number of seconds")
    return float(ts)  # type: ignore[arg-type]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a finite number")
