"""Finds, reads and checks the configuration: environment (`EDGECC_MQTT__PORT`) > file > default.

An unknown key or a wrong value is an error with file, line and, where one is close, a suggestion.
Secrets come from `!secret name` or `${VAR:?message}`.
"""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from edgecc.config import values
from edgecc.config.checks import check
from edgecc.config.schema import Config, SourceConfig, keys
from edgecc.config.values import Values
from edgecc.errors import ConfigError, shown

_PLACES = ("edgecc.yaml", "~/.config/edgecc/edgecc.yaml", "/etc/edgecc/edgecc.yaml")
# Taken as written: a password may be 0123.
_TEXTS = {"node", "prefix", "state_dir", "stem", "mqtt.host", "mqtt.username", "mqtt.password",
          "mqtt.ca", "mqtt.cert", "mqtt.key", "governor.quiet_hours", "governor.sysfs"}
_SOURCE = re.compile(r"sources\.(\*|[a-z0-9-]{1,64})\.(labels|rate)")


def configuration(path: Path | str | None = None) -> Config:
    """The configuration from `path`, else from the first of the usual places that exists.

    These are edgecc.yaml here, in ~/.config/edgecc and in /etc/edgecc. ConfigError where a key or a
    value is wrong.
    """
    usual = (Path(name).expanduser() for name in _PLACES)
    return load(Path(path) if path else next((place for place in usual if place.exists()), None))


def load(
    path: Path | None = None, *, environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration from a file (or none), the environment and, above both, `overrides`.

    environ: instead of os.environ. overrides: by dotted key, as in {"mqtt.port": 1884}.
    """
    environ = os.environ if environ is None else environ
    given: Values = {}
    if path is not None:
        given |= values.from_file(path, environ, _kind_of)
    given |= values.from_environment(environ, _kind_of)
    given |= {key: (value, "an override") for key, value in (overrides or {}).items()}
    _reject_unknown(given)
    config: Config = _build(Config, given)
    check(config)
    return config


def _kind_of(key: str) -> Literal["text", "texts", "value"]:
    if key.startswith("sources."):
        return "texts" if key.endswith(".labels") else "text"
    return "text" if key in _TEXTS else "value"


def _reject_unknown(given: Values) -> None:
    known = [key for key in keys() if key != "sources"]
    for key, (value, place) in given.items():
        section = value is None and any(
            name.startswith(key + ".") for name in (*known, "sources."))
        if key not in known and not section and not _SOURCE.fullmatch(key):
            close = difflib.get_close_matches(key, [*known, *_source_keys(key)], n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
            raise ConfigError(f"{place}: unknown key {shown(key)}{hint}")


def _source_keys(key: str) -> list[str]:
    """The keys of the source that `key` names, where it names one."""
    name = key.split(".")[1:2]
    return [f"sources.{name[0]}.{item.name}" for item in fields(SourceConfig)] if name else []


def _build(kind: type, given: Values, prefix: str = "") -> Any:
    chosen: dict[str, Any] = {}
    for item in fields(kind):
        key, hint = prefix + item.name, item.type
        if item.name == "sources":
            chosen[item.name] = _build_sources(given)
        elif is_dataclass(hint) and isinstance(hint, type):
            chosen[item.name] = _build(hint, given, key + ".")
        elif given.get(key, (None, ""))[0] is not None:  # null: the default
            value, place = given[key]
            try:
                chosen[item.name] = _coerce(value, hint, item.metadata)
            except (ValueError, TypeError) as error:
                raise ConfigError(f"{place}: {key}: {error}") from error
    return kind(**chosen)


def _build_sources(given: Values) -> dict[str, SourceConfig]:
    names = dict.fromkeys(key.split(".")[1] for key in given if _SOURCE.fullmatch(key))
    return {name: _build(SourceConfig, given, f"sources.{name}.") for name in names}


def _coerce(value: Any, hint: Any, metadata: Mapping[str, Any]) -> Any:
    """`value` as a field's type; ValueError or TypeError with what is expected where it is not.

    msgspec.convert would save some 30 lines, but costs the daemon 1.8 MiB and 16 ms, and its
    errors do not say what was written.
    """
    if "parse" in metadata:
        return metadata["parse"](value)
    options = get_args(hint)
    if get_origin(hint) is tuple:
        return tuple(_scalar(item, options[0]) for item in value)
    return str(value) if type(None) in options else _scalar(value, hint)


def _scalar(value: Any, hint: Any) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{shown(value)} is not one of {', '.join(get_args(hint))}")
    elif hint is int:
        if type(value) is not int or not 0 <= value < 2**63:
            raise ValueError(f"{shown(value)} is not an integer from 0")
    elif hint is float and type(value) is int:
        return float(value)
    elif not isinstance(value, hint):
        raise ValueError(f"{shown(value)} is not a {hint.__name__}")
    return value
