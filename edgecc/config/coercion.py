"""A value as written down to one of the type that a field of a dataclass has."""

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from edgecc.errors import shown


def coerce(value: Any, hint: Any, metadata: Mapping[str, Any]) -> Any:
    """ValueError or TypeError, saying what is wanted, where `value` is no such thing."""
    if "parse" in metadata:
        return metadata["parse"](value)
    options = get_args(hint)
    if get_origin(hint) is tuple:
        return tuple(_plain(item, options[0], ()) for item in value)
    if type(None) in options:
        return str(value)
    return _plain(value, hint, options)


def _plain(value: Any, hint: Any, options: tuple[Any, ...]) -> Any:
    if get_origin(hint) is Literal:
        if value not in options:
            raise ValueError(f"{shown(value)} is not one of {', '.join(options)}")
        return value
    if hint is int:
        return _whole(value)
    if hint is float and type(value) is int:
        value = float(value)
    if not isinstance(value, hint):
        raise ValueError(f"{shown(value)} is not a {hint.__name__}")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{shown(value)} is not a whole number")
    return value
