"""The session with the broker: what each connect, loss and subscription means for this node."""

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Literal

from edgecc.config.schema import Config
from edgecc.errors import AuthError, ConfigError
from edgecc.mqtt.connection import Link
from edgecc.mqtt.connection_events import Connected, Disconnected, LinkEvent, Published, Subscribed
from edgecc.mqtt.events import Events, Severity
from edgecc.mqtt.outbox import Outbox
from edgecc.store import meta
from edgecc.store.writer import Store

log = logging.getLogger(__name__)

_SHORT, _SHORT_ONES = 10.0, 3  # seconds of a short connection; how many make a pattern
_CANARY_DEADLINE = 5.0  # seconds for a message to itself to come back
_CANARY_AGAIN = 2.0  # seconds between those that follow
_LOST = ("a message of this node to itself did not come back: the broker's ACL denies it in/#, so "
         "that no sample arrives; see deploy/acl, and the broker's log")


class Session:
    def __init__(
        self, config: Config, link: Link, outbox: Outbox, store: Store, events: Events,
        online: Callable[[], None],
    ) -> None:
        """online: called after every connect, once samples can arrive."""
        self._mqtt, self._node, self._topics = config.mqtt, config.node, config.topics
        self._link, self._outbox, self._store = link, outbox, store
        self._events, self._online = events, online
        self._ever_connected = False
        self._connected_at, self._short = 0.0, 0  # short connections in a row
        self.canary: Literal["waiting", "returned", "lost"] = "waiting"
        self._token, self._canary_mid, self._canary_due = "", 0, float("inf")

    def take(self, event: LinkEvent) -> None:
        """Follow an event of the connection."""
        if isinstance(event, Connected):
            self._on_connected(event)
        elif isinstance(event, Disconnected):
            self._on_disconnected(event)
        elif isinstance(event, Subscribed):
            self._on_subscribed(event)
        else:
            self._on_published(event)

    def turn(self) -> None:
        """Notice an overdue canary."""
        if time.monotonic() < self._canary_due:
            return
        if self.canary == "lost":
            self._send_canary()
        else:
            self._canary_lost(_LOST)

    def heard(self, topics: Iterable[str]) -> None:
        """Messages came on these topics: any on `in/#` proves delivery; restart the deadline."""
        inward = self._topics / "in/"
        if self.canary == "waiting" and any(topic.startswith(inward) for topic in topics):
            self._canary_due = time.monotonic() + _CANARY_DEADLINE

    def returned(self, token: str) -> None:
        """The canary came back: the broker delivers what is published to this node."""
        if token != self._token:
            return
        if self.canary == "lost":
            self._event("canary-back", "info", "the broker delivers samples again")
        self.canary, self._canary_due = "returned", float("inf")

    def _on_connected(self, event: Connected) -> None:
        log.info("connected to the broker, connection %d", event.connection)
        self._outbox.connected(event.window, event.max_packet, event.too_large)
        if event.too_large:
            self._alert_too_large(event.max_packet)
        self._ever_connected, self._connected_at = True, time.monotonic()
        filters = self._topics.subscriptions()
        before = json.loads(self._store.meta(meta.FILTERS))
        if stale := [name for name in before if name not in filters]:
            self._link.unsubscribe(stale)
        self._link.subscribe(filters)
        if before != filters:
            with self._store.transaction():
                self._store.set_meta(meta.FILTERS, json.dumps(filters))
        if before and not event.session_present:
            self._event("session-lost", "warning",
                        "the broker had forgotten this node; re-send what has no receipt")

    def _on_disconnected(self, event: Disconnected) -> None:
        self._outbox.disconnected()
        self._canary_due = float("inf")
        if event.refused:
            raise AuthError(f"the broker refuses this node: {event.reason}")
        if event.lasting and not self._ever_connected:  # what has worked may work again
            raise AuthError(f"no connection to the broker: {event.reason}")
        if self._mqtt.host is None and not self._ever_connected:
            raise ConfigError(
                f"no broker on localhost:{self._mqtt.port} ({event.reason}): set mqtt.host "
                "in edgecc.yaml (`edgecc init` writes one), or run `edgecc start --with-broker`"
            )
        if event.too_large:
            self._on_too_large()
        else:
            self._count_short_connections()
        log.warning("no connection to the broker: %s", event.reason)

    def _on_too_large(self) -> None:
        limit = self._outbox.refused_as_too_large()
        if limit is None:
            raise ConfigError("the broker takes no packet of this node, not even to connect: "
                              "raise its max_packet_size")
        self._alert_too_large(limit)

    def _alert_too_large(self, limit: int | None) -> None:
        self._events.alert("packet-too-large", "error", {
            "limit": limit, "what": "the broker takes no larger packet: raise its max_packet_size"})

    def _count_short_connections(self) -> None:
        """Brokers that do not say `session taken over` only show it by what they do."""
        if not self._connected_at:
            return
        short = time.monotonic() - self._connected_at < _SHORT
        self._short, self._connected_at = self._short + 1 if short else 0, 0.0
        if self._short == _SHORT_ONES:
            what = ("the broker ends every connection at once, as it does when another client uses "
                    f"this id: does another device have the name {self._node!r}? Each needs its "
                    "own `node`")
            log.error("%s", what)
            self._event("taken-over", "error", what)

    def _on_subscribed(self, event: Subscribed) -> None:
        if event.refused:
            raise AuthError(f"the broker denies a subscription: {', '.join(event.refused)}")
        self._online()
        self.canary = "lost" if self.canary == "lost" else "waiting"
        self._send_canary()

    def _on_published(self, event: Published) -> None:
        if event.mid == self._canary_mid and event.failure is not None:
            if self.canary != "lost":
                self._canary_lost(f"{_LOST} ({event.failure})")
        elif not self._outbox.published(event):
            log.error("the broker refused a message: %s", event.failure)

    def _send_canary(self) -> None:
        """mosquitto grants a subscription that its ACL denies, and delivers nothing."""
        self._token = secrets.token_hex(8)
        self._canary_mid = self._link.publish(self._topics / "in/canary", self._token.encode())
        self._canary_due = time.monotonic() + (
            _CANARY_AGAIN if self.canary == "lost" else _CANARY_DEADLINE)

    def _canary_lost(self, what: str) -> None:
        log.error("%s", what)
        self.canary = "lost"
        self._canary_due = 0.0  # at once again
        self._event("canary-lost", "error", what)

    def _event(self, kind: str, severity: Severity, what: str) -> None:
        self._events.note(kind, severity, {"what": what})
