"""The configuration: one frozen tree, every key with a default, a unit and a place.

Flag > environment (`EDGECC_MQTT__PORT`) > file > default. An unknown or wrong key is an error
with file, line and a suggestion. Secrets come from `!secret name` or `${VAR:?message}`.
"""

import difflib
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from edgecc.config import loading as settings
from edgecc.config.coercion import coerce
from edgecc.config.loading import Values
from edgecc.config.quiet_hours import Hours, parse_hours, show_hours
from edgecc.config.state import State
from edgecc.config.units import Rate, format_size, parse_rate, parse_size
from edgecc.errors import ConfigError, shown
from edgecc.protocol.sample import Input
from edgecc.protocol.topics import Topics, check_id

_BOUNDS = {  # what the protocol, or sense, allows
    "mqtt.port": (1, 65535), "mqtt.keepalive": (5, 65535), "mqtt.session_expiry": (60, 2**32 - 2),
    "mqtt.max_payload": (1024, 256 * 2**20 - 2**17), "keep_generations": (1, 10_000),
    "grow.first": (20, 10**9), "grow.epochs": (1e-3, 1000), "grow.threads": (1, 256),
    "grow.blocks": (0, 8), "grow.idle_exit": (0, 10**9), "max_classes": (0, 100_000),
    "trust.tolerance": (0, 0.9), "trust.rate": (1e-12, 0.1), "drift.delta": (1e-9, 0.5),
    "unknown.rate": (0, 0.5), "governor.max_celsius": (20, 150), "governor.cpu_share": (0.05, 1),
}
_HOST = re.compile(r"[\w.:%-]{1,255}")
PATCHES = "patches"
LITE0_DEPTH = r"efficientnet-lite0(?::([1-9]|1[0-6]))?"
_STEM = rf"{PATCHES}|{LITE0_DEPTH}|.+\.tflite(?::.+)?"
_TEXTS = {"node", "prefix", "state_dir", "stem", "mqtt.host", "mqtt.username", "mqtt.password",
          "mqtt.ca", "mqtt.cert", "mqtt.key",  # taken as written: a password may be 0123
          "governor.quiet_hours", "governor.sysfs"}
_SOURCE = re.compile(r"sources\.(\*|[a-z0-9-]{1,64})\.(labels|rate)")


def _default_node() -> str:
    name = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")
    return name[:64] or "edgecc"


def _default_state_dir() -> str:
    """systemd's StateDirectory, else the user's own state folder."""
    home = Path.home() / ".local/state"
    return os.environ.get("STATE_DIRECTORY") or str(
        Path(os.environ.get("XDG_STATE_HOME", home)) / "edgecc"
    )


def size(default: str) -> Any:
    return field(default=parse_size(default), metadata={"parse": parse_size, "show": format_size})


def secret() -> Any:
    return field(default=None, repr=False, metadata={"secret": True})


@dataclass(frozen=True)
class Mqtt:
    host: str | None = None
    port: int = 1883
    username: str | None = None
    password: str | None = secret()
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    keepalive: int = 30
    session_expiry: int = 7 * 24 * 3600
    max_payload: int = size("1MiB")


@dataclass(frozen=True)
class InputConfig:
    kind: Literal["image", "sensor"] = "image"
    shape: tuple[int, ...] = (3, 64, 64)
    max_pixels: int = 3_000_000


@dataclass(frozen=True)
class Grow:
    first: int = 2000
    blocks: int = 3
    epochs: float = 5.0
    method: Literal[
        "contextual", "contextual-hardest", "contextual-random", "contextual-bias",
        "contextual-scale", "spela", "supervised",
    ] = "contextual"
    backend: Literal["auto", "torch", "numpy"] = "auto"
    mirror: bool = False
    threads: int = 1
    idle_exit: float = 30.0


@dataclass(frozen=True)
class Trust:
    enabled: bool = True
    tolerance: float = 0.1
    rate: float = 1e-6


@dataclass(frozen=True)
class DriftConfig:
    delta: float = 0.002


@dataclass(frozen=True)
class Unknown:
    rate: float = 0.05


@dataclass(frozen=True)
class GovernorConfig:
    max_celsius: float = 75.0
    heed_throttling: bool = True
    quiet_hours: tuple[Hours, ...] = field(
        default=(), metadata={"parse": parse_hours, "show": show_hours})
    cpu_share: float = 1.0
    sysfs: str = "/sys"


def parse_labels(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f"{shown(value)} is not a list of labels, as in [cat, dog]")
    return tuple(value)


@dataclass(frozen=True)
class Source:
    """What one source may send."""

    labels: tuple[str, ...] | None = field(default=None, metadata={"parse": parse_labels})
    rate: Rate | None = field(default=None, metadata={"parse": parse_rate, "show": str})


@dataclass(frozen=True)
class Config:
    node: str = field(default_factory=_default_node)
    prefix: str = "edgecc/v1"
    state_dir: str = field(default_factory=_default_state_dir)
    memory_budget: int = size("512MiB")
    disk_budget: int = size("4GiB")
    keep_generations: int = 8
    max_classes: int = 0
    predict: bool = True
    seed: int = 0
    stem: str = PATCHES
    stem_pixels: tuple[float, ...] = (0.0, 1.0)
    trusted_keys: tuple[str, ...] = ()
    mqtt: Mqtt = Mqtt()
    input: InputConfig = InputConfig()
    grow: Grow = Grow()
    trust: Trust = Trust()
    drift: DriftConfig = DriftConfig()
    unknown: Unknown = Unknown()
    governor: GovernorConfig = GovernorConfig()
    sources: Mapping[str, Source] = field(default_factory=dict)  # by name; "*": all others

    @property
    def topics(self) -> Topics:
        return Topics(prefix=self.prefix, node=self.node)

    @property
    def input_spec(self) -> Input:
        return Input(
            kind=self.input.kind, shape=self.input.shape, max_pixels=self.input.max_pixels
        )

    @property
    def state(self) -> State:
        return State(Path(self.state_dir).expanduser())


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration from a file (or none), the environment and dotted flags."""
    environ = os.environ if environ is None else environ
    values: Values = {}
    if path is not None:
        values |= settings.from_file(path, environ, _kind_of)
    values |= settings.from_environment(environ, _kind_of)
    values |= {key: (value, "a flag") for key, value in (flags or {}).items()}
    _reject_unknown(values)
    config: Config = _build(Config, values)
    check_id(config.node, "node")
    _check(config)
    return config


def keys(kind: Any = Config, prefix: str = "") -> Iterator[str]:
    """Every dotted key, in order."""
    for item in fields(kind):
        inner = get_type_hints(kind)[item.name]
        if is_dataclass(inner):
            yield from keys(inner, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name


def show(config: Any) -> dict[str, Any]:
    """The tree as plain values, secrets masked."""
    return {item.name: _shown(getattr(config, item.name), item.metadata) for item in fields(config)}


def _shown(value: Any, metadata: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return {name: show(one) for name, one in value.items()}
    if value is None or (is_dataclass(value) and "show" not in metadata):
        return value and show(value)
    if metadata.get("secret"):
        return "********"
    if "show" in metadata:
        return metadata["show"](value)
    return list(value) if isinstance(value, tuple) else value


def _kind_of(key: str) -> Literal["text", "texts", "value"]:
    if key.startswith("sources."):
        return "texts" if key.endswith(".labels") else "text"
    return "text" if key in _TEXTS else "value"


def _reject_unknown(values: Values) -> None:
    known = [key for key in keys() if key != "sources"]
    for key, (value, place) in values.items():
        section = value is None and any(
            name.startswith(key + ".") for name in (*known, "sources."))
        if key not in known and not section and not _SOURCE.fullmatch(key):
            close = difflib.get_close_matches(key, [*known, *_source_keys(key)], n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
            raise ConfigError(f"{place}: unknown key {shown(key)}{hint}")


def _source_keys(key: str) -> list[str]:
    """What may stand below the name of a source, where `key` begins with one."""
    name = key.split(".")[1:2]
    return [f"sources.{name[0]}.{item.name}" for item in fields(Source)] if name else []


def _build(kind: type, values: Values, prefix: str = "") -> Any:
    hints = get_type_hints(kind)
    chosen: dict[str, Any] = {}
    for item in fields(kind):
        key, hint = prefix + item.name, hints[item.name]
        if item.name == "sources":
            chosen[item.name] = _build_sources(values)
        elif is_dataclass(hint) and isinstance(hint, type):
            chosen[item.name] = _build(hint, values, key + ".")
        elif values.get(key, (None, ""))[0] is not None:  # null: the default
            value, place = values[key]
            try:
                chosen[item.name] = coerce(value, hint, item.metadata)
            except (ValueError, TypeError) as error:
                raise ConfigError(f"{place}: {key}: {error}") from error
    return kind(**chosen)


def _build_sources(values: Values) -> dict[str, Source]:
    names = dict.fromkeys(key.split(".")[1] for key in values if _SOURCE.fullmatch(key))
    return {name: _build(Source, values, f"sources.{name}.") for name in names}


def _check(config: Config) -> None:
    try:
        config.input_spec.check()
    except ValueError as error:
        raise ConfigError(f"input.shape: {error}") from error
    for key, (low, high) in _BOUNDS.items():
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name)
        if not low <= value <= high:
            raise ConfigError(f"{key} {value} is not from {low} to {high}")
    if not re.fullmatch(_STEM, config.stem):
        raise ConfigError(f"stem {config.stem!r} is not patches, efficientnet-lite0, "
                          "efficientnet-lite0:1 to :16, or a .tflite file")
    if len(config.stem_pixels) != 2 or not config.stem_pixels[0] < config.stem_pixels[1]:
        raise ConfigError(f"stem_pixels {list(config.stem_pixels)} are not black and white, as in "
                          "[0, 1] or [-1, 1]")
    if config.input.kind == "sensor" and config.grow.first < 64:
        raise ConfigError("grow.first must be at least 64: the first 64 windows set the scale")
    if config.mqtt.host is not None and not _HOST.fullmatch(config.mqtt.host):
        raise ConfigError("mqtt.host is not the name or address of a machine; port, user and "
                          "password have keys of their own")
    for key in config.trusted_keys:
        if not re.fullmatch(r"[0-9a-f]{64}", key):
            raise ConfigError(f"trusted_keys: {key!r} is not a public key in hex, as `edgecc keys "
                              "show` prints it")
    if not config.mqtt.tls and (config.mqtt.ca or config.mqtt.cert or config.mqtt.key):
        raise ConfigError("mqtt.ca, cert or key are set, but mqtt.tls is false: set it to true")
    if config.disk_budget < 16 * 2**20:
        raise ConfigError(f"disk_budget {format_size(config.disk_budget)} is under 16MiB")
