"""`edgecc start`: the daemon, with or without a local broker."""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgecc.config.schema import Config

log = logging.getLogger(__name__)


@click.command()
@click.option("--with-broker", is_flag=True, help="Run a local broker too, for a first try.")
@click.pass_obj
def start(path: Path | None, with_broker: bool) -> None:
    """Run the daemon: receive, store, predict, learn, publish."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy; one core stays free
    from edgecc.config.loading import configuration
    from edgecc.daemon.daemon import Daemon
    from edgecc.host import allocator

    def read() -> "Config":
        config = configuration(path)
        return replace(config, mqtt=replace(config.mqtt, host="127.0.0.1")) if (
            with_broker) else config

    allocator.frugal()
    config = read()
    with ExitStack() as stack:
        if with_broker:
            stack.callback(_start_broker(config))
        sys.exit(Daemon(config, read).run())


def _start_broker(config: "Config") -> Callable[[], None]:
    """Start a broker for this configuration; returns what stops it."""
    from edgecc.mqtt.local_broker import start_local

    broker = start_local(config.state.broker, config.mqtt.port)
    log.info("%s listens on 127.0.0.1:%d", broker.name, config.mqtt.port)
    return broker.stop
