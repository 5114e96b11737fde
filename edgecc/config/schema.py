"""The configuration: one frozen tree, every key with its default and how it is parsed and shown."""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

from edgecc.config.quiet_hours import Hours, parse_hours, show_hours
from edgecc.config.state import State
from edgecc.config.units import Rate, format_size, parse_rate, parse_size
from edgecc.errors import shown
from edgecc.protocol.sample import Input
from edgecc.protocol.topics import Topics

AUTO, PATCHES = "auto", "patches"
LITE0_DEPTH = r"efficientnet-lite0(?::([1-9]|1[0-6]))?"


def _default_node() -> str:
    name = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")
    return name[:64] or "edgecc"


def _default_state_dir() -> str:
    """systemd's StateDirectory, else the user's own state folder."""
    home = Path.home() / ".local/state"
    return os.environ.get("STATE_DIRECTORY") or str(
        Path(os.environ.get("XDG_STATE_HOME", home)) / "edgecc")


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
class UnknownConfig:
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
class SourceConfig:
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
    stem: str = AUTO
    stem_pixels: tuple[float, ...] = (0.0, 1.0)
    trusted_keys: tuple[str, ...] = ()
    mqtt: Mqtt = Mqtt()
    input: Input = field(default_factory=Input)
    grow: Grow = Grow()
    trust: Trust = Trust()
    drift: DriftConfig = DriftConfig()
    unknown: UnknownConfig = UnknownConfig()
    governor: GovernorConfig = GovernorConfig()
    sources: Mapping[str, SourceConfig] = field(default_factory=dict)  # by name; "*": all others

    @property
    def topics(self) -> Topics:
        return Topics(prefix=self.prefix, node=self.node)

    @property
    def state(self) -> State:
        return State(Path(self.state_dir).expanduser())


def keys(kind: Any = Config, prefix: str = "") -> Iterator[str]:
    """Every dotted key, in order."""
    for item in fields(kind):
        if is_dataclass(item.type):
            yield from keys(item.type, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name


def value_of(config: Config, key: str) -> Any:
    """The value of a dotted key."""
    return reduce(getattr, key.split("."), config)


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
