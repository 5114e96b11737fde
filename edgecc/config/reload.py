"""`command/reload`: which keys a running node can change, and a configuration with them changed."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from edgecc.config.schema import Config, keys, value_of

# The others shape what exists already: the plan, the trunk, the session with the broker.
AT_RUN_TIME = {
    "disk_budget", "keep_generations", "sources", "trusted_keys", "predict", "grow.first",
    "grow.epochs", "grow.method", "trust.enabled", "trust.tolerance", "trust.rate", "drift.delta",
    "unknown.rate", "governor.max_celsius", "governor.heed_throttling", "governor.quiet_hours",
    "governor.cpu_share",
}


def differences(one: Config, other: Config) -> list[str]:
    return [key for key in keys() if value_of(one, key) != value_of(other, key)]


def taken_over(config: Config, fresh: Config, names: Iterable[str]) -> Config:
    """`config` with the values that `fresh` has for these keys."""
    for key in names:
        section, _, name = key.rpartition(".")
        value: Any = value_of(fresh, key)
        if section:
            name, value = section, replace(getattr(config, section), **{name: value})
        config = replace(config, **{name: value})
    return config
