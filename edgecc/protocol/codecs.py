"""JSON and CBOR from anyone, in bounded time; every way to be wrong is a MessageError."""

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from edgecc.errors import MessageError


def _refuse_tag(*_: Any) -> Any:
    raise ValueError("tags are not accepted")


_NO_TAGS = defaultdict[int, Callable[..., Any]](lambda: _refuse_tag)


def from_cbor(payload: bytes) -> Any:
    try:
        import cbor2
    except ImportError as error:
        raise MessageError("CBOR needs `pip install edgecc[cbor]` on the node") from error
    try:
        # Keys that are text cannot be made to collide; tags can cost seconds (rationals, sets).
        return cbor2.loads(payload, strict_hashable_types=True, semantic_decoders=_NO_TAGS)
    except (cbor2.CBORDecodeError, RecursionError, MemoryError) as error:
        raise MessageError(f"payload is not CBOR: {error.__cause__ or error}") from error


def from_json(payload: bytes) -> Any:
    try:
        value = json.loads(payload.decode())
        if b"\\" in payload:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is not text
        return value
    except (ValueError, RecursionError) as error:
        raise MessageError(f"payload is not JSON: {error}") from error


def json_object(payload: bytes) -> dict[str, Any]:
    """Of nothing, an empty one."""
    value = from_json(payload or b"{}")
    if not isinstance(value, dict):
        raise MessageError("payload is not a JSON object")
    return value
