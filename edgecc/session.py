"""The session with the broker: what each connect, loss and subscription means for this node."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING

from edgecc.errors import AuthError, ConfigError
from edgecc.link import Connected, Disconnected, Event, Published, Subscribed

if TYPE_CHECKING:
    from edgecc.daemon import Daemon

log = logging.getLogger(__name__)

_SHORT, _SHORT_ONES = 10.0, 3  # seconds of a short connection; how many make a pattern


class Session:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._ever_connected = False
        self._connected_at, self._short = 0.0, 0  # short connections in a row

    def take(self, event: Event) -> None:
        """Anything but a message."""
        if isinstance(event, Connected):
            self._on_connected(event)
        elif isinstance(event, Disconnected):
            self._on_disconnected(event)
        elif isinstance(event, Subscribed):
            self._on_subscribed(event)
        elif isinstance(event, Published) and not self._daemon.outbox.published(event):
            log.error("the broker refused a message: %s", event.failure)

    def _on_connected(self, event: Connected) -> None:
        log.info("connected to the broker, connection %d", event.connection)
        daemon = self._daemon
        daemon.outbox.connected(event.window, event.max_payload)
        filters = daemon.config.topics.subscriptions()
        before = json.loads(daemon.store.meta("filters", "[]"))
        if stale := [name for name in before if name not in filters]:
            daemon.link.unsubscribe(stale)
        daemon.link.subscribe(filters)
        with daemon.store.transaction():
            daemon.store.set_meta("filters", json.dumps(filters))
            if before and not event.session_present:
                daemon.announcer.event("session-lost", "warning", {
                    "what": "the broker had forgotten this node; re-send what has no receipt"
                })
        self._ever_connected, self._connected_at = True, time.monotonic()

    def _on_disconnected(self, event: Disconnected) -> None:
        config = self._daemon.config
        self._daemon.outbox.disconnected()
        if event.refused:
            raise AuthError(f"the broker refuses this node: {event.reason}")
        if config.mqtt.host is None and not self._ever_connected:
            raise ConfigError(
                f"no broker on localhost:{config.mqtt.port} ({event.reason}): set mqtt.host "
                "in edgecc.yaml (`edgecc init` writes one), or run `edgecc start --with-broker`"
            )
        self._count_short_connections()
        log.warning("no connection to the broker: %s", event.reason)

    def _count_short_connections(self) -> None:
        """Brokers that do not say `session taken over` only show it by what they do."""
        if not self._connected_at:
            return
        short = time.monotonic() - self._connected_at < _SHORT
        self._short, self._connected_at = self._short + 1 if short else 0, 0.0
        if self._short == _SHORT_ONES:
            log.error("the broker ends every connection at once: does another device use the "
                      "name %r? Each needs its own `node`", self._daemon.config.node)

    def _on_subscribed(self, event: Subscribed) -> None:
        if event.refused:
            raise AuthError(f"the broker denies a subscription: {', '.join(event.refused)}")
        daemon = self._daemon
        daemon.announcer.online()
        daemon.link.publish(
            daemon.config.topics / "in/canary", str(daemon.link.connection).encode())
