"""`edgecc start`, with or without a broker of its own."""

import logging
from dataclasses import replace

from edgecc.broker import start_local
from edgecc.config import Config
from edgecc.daemon import Daemon

log = logging.getLogger(__name__)


def run(config: Config, *, with_broker: bool) -> int:
    """The daemon's exit code."""
    if not with_broker:
        return Daemon(config).run()
    config = replace(config, mqtt=replace(config.mqtt, host="127.0.0.1"))
    broker = start_local(config.state / "broker", config.mqtt.port)
    log.info("%s listens on 127.0.0.1:%d", broker.name, config.mqtt.port)
    try:
        return Daemon(config).run()
    finally:
        broker.stop()
