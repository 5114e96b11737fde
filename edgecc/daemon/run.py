"""`edgecc start`, with or without a broker of its own."""

import logging
from collections.abc import Callable
from dataclasses import replace

from edgecc.config.schema import Config
from edgecc.daemon.daemon import Daemon
from edgecc.host import allocator
from edgecc.mqtt.local_broker import start_local

log = logging.getLogger(__name__)


def run(read: Callable[[], Config], *, with_broker: bool) -> int:
    """The daemon's exit code; read: the configuration."""
    allocator.frugal()
    if not with_broker:
        return Daemon(read(), read).run()

    def read_local() -> Config:
        found = read()
        return replace(found, mqtt=replace(found.mqtt, host="127.0.0.1"))

    config = read_local()
    broker = start_local(config.state.broker, config.mqtt.port)
    log.info("%s listens on 127.0.0.1:%d", broker.name, config.mqtt.port)
    try:
        return Daemon(config, read_local).run()
    finally:
        broker.stop()
