"""edgecc: learns on the device, for months, from what its owner streams to it over MQTT.

    load           a classifier from a pulled checkpoint's folder; needs no broker and no torch
    configuration  edgecc.yaml and the environment, as the commands read them
    Client         a short session with a node, for its commands; takes a configuration
    Readout        the exact readout: learn, unlearn, weights
    learn          the learning core: blocks, methods, networks
    lab            published papers' methods under their own names

Each is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecc import lab, learn
    from edgecc.config.loading import configuration
    from edgecc.learn.readout import Readout
    from edgecc.mqtt.client import Client
    from edgecc.serving.load import load

__all__ = ["Client", "Readout", "__version__", "configuration", "lab", "learn", "load"]
__version__ = "0.2.0"

_HOMES = {
    "Client": "edgecc.mqtt.client", "Readout": "edgecc.learn.readout",
    "configuration": "edgecc.config.loading", "load": "edgecc.serving.load",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in __all__:
        return import_module(f"edgecc.{name}")
    raise AttributeError(f"module 'edgecc' has no attribute {name!r}")
