"""What the values of a configuration must satisfy; ConfigError says which does not and why."""

import re

from edgecc.config.schema import AUTO, LITE0_DEPTH, PATCHES, Config, value_of
from edgecc.config.units import format_size
from edgecc.errors import ConfigError
from edgecc.protocol.topics import check_id

_BOUNDS = {  # what the protocol, or sense, allows
    "mqtt.port": (1, 65535), "mqtt.keepalive": (5, 65535), "mqtt.session_expiry": (60, 2**32 - 2),
    "mqtt.max_payload": (1024, 256 * 2**20 - 2**17), "keep_generations": (1, 10_000),
    "grow.first": (20, 10**9), "grow.epochs": (1e-3, 1000), "grow.threads": (1, 256),
    "grow.blocks": (0, 8), "grow.idle_exit": (0, 10**9), "max_classes": (0, 100_000),
    "trust.tolerance": (0, 0.9), "trust.rate": (1e-12, 0.1), "drift.delta": (1e-9, 0.5),
    "unknown.rate": (0, 0.5), "governor.max_celsius": (20, 150), "governor.cpu_share": (0.05, 1),
}
_HOST = re.compile(r"[\w.:%-]{1,255}")
_STEM = rf"{AUTO}|{PATCHES}|{LITE0_DEPTH}|.+\.tflite(?::.+)?"


def check(config: Config) -> None:
    check_id(config.node, "node")
    for key, (low, high) in _BOUNDS.items():
        value = value_of(config, key)
        if not low <= value <= high:
            raise ConfigError(f"{key} {value} is not from {low} to {high}")
    if config.disk_budget < 16 * 2**20:
        raise ConfigError(f"disk_budget {format_size(config.disk_budget)} is under 16MiB")
    for public_key in config.trusted_keys:
        if not re.fullmatch(r"[0-9a-f]{64}", public_key):
            raise ConfigError(f"trusted_keys: {public_key!r} is not a public key in hex, as "
                              "`edgecc keys show` prints it")
    _check_input(config)
    _check_broker(config)


def _check_input(config: Config) -> None:
    try:
        config.input.check()
    except ValueError as error:
        raise ConfigError(f"input.shape: {error}") from error
    if config.input.kind == "sensor" and config.grow.first < 64:
        raise ConfigError("grow.first must be at least 64: the first 64 windows set the scale")
    if not re.fullmatch(_STEM, config.stem):
        raise ConfigError(f"stem {config.stem!r} is not auto, patches, efficientnet-lite0, "
                          "efficientnet-lite0:1 to :16, or a .tflite file")
    if len(config.stem_pixels) != 2 or not config.stem_pixels[0] < config.stem_pixels[1]:
        raise ConfigError(f"stem_pixels {list(config.stem_pixels)} are not black and white, as in "
                          "[0, 1] or [-1, 1]")


def _check_broker(config: Config) -> None:
    mqtt = config.mqtt
    if mqtt.host is not None and not _HOST.fullmatch(mqtt.host):
        raise ConfigError("mqtt.host is not the name or address of a machine; port, user and "
                          "password have keys of their own")
    if not mqtt.tls and (mqtt.ca or mqtt.cert or mqtt.key):
        raise ConfigError("mqtt.ca, cert or key are set, but mqtt.tls is false: set it to true")
