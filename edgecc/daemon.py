"""`edgecc start`: wires the parts, then turns: messages in, learner followed, messages out.

Everything here runs in one thread. The network has a thread of its own that only queues events,
the learner a process of its own. Nothing acknowledged is lost, whatever is killed and when.
"""

import fcntl
import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from edgecc import planner, signing
from edgecc.announce import Announcer
from edgecc.commands import answer
from edgecc.config import Config
from edgecc.errors import AuthError, ConfigError, MessageError
from edgecc.ingest import Ingest
from edgecc.link import Connected, Disconnected, Event, Link, Published, Subscribed, Will
from edgecc.messages import Canary, ChunkRequest, Command, Inbound
from edgecc.orders import Orders
from edgecc.outbox import Outbox
from edgecc.prequential import WINDOW, Prequential
from edgecc.retention import evict, over_budget
from edgecc.serving import Serving
from edgecc.store import Store
from edgecc.supervisor import Supervisor
from edgecc.systemd import notify
from edgecc.transfer import serve

log = logging.getLogger(__name__)

_REFRESH = 0.2  # seconds between two solves of the readout while labels stream in
_PATIENCE = 0.05  # seconds to wait for messages when there is nothing else to do
_SETTLE = 1.0  # seconds after which arrived outbox rows are deleted even without traffic
_SNAPSHOT_LABELS = 5000
_RETAIN_EVERY = 500  # samples
_EVICT_AT_ONCE = 500  # samples a turn, so that none takes long
_FORGET_EVERY = 3600.0  # seconds
_SHORT, _SHORT_ONES = 10.0, 3  # seconds of a short connection; how many make a pattern
_FAREWELL = 5.0  # seconds for the last messages to leave


class Daemon:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.paused = False
        self.stopping = False
        self._ever_connected = False
        self._last = dict.fromkeys(("refresh", "settle", "health", "forget"), 0.0)
        self._announced = -1  # number of the generation last announced as serving
        self._connected_at, self._short = 0.0, 0  # short connections in a row
        self._looked_at = 0  # samples stored when retention last ran

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit code."""
        self.config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _only_one(self.config.state / "lock"):
            self._start()
            while not self.stopping:
                self._turn()
                notify("WATCHDOG=1")
            self._stop()
        return 0

    # --- start ---

    def _start(self) -> None:
        config = self.config
        self.plan = planner.plan(
            config.memory_budget, config.input_spec,
            max_payload=config.mqtt.max_payload, blocks=config.grow.blocks,
        )
        grow = replace(config.grow, blocks=len(self.plan.blocks))  # none where none fits
        config = self.config = replace(config, grow=grow)
        self.key = signing.load_or_make_key(config.state / "node.key")
        self.store = Store(config.state / "log.sqlite")
        self._check_input()
        self.serving = Serving(config, self.plan, self.store, self.key)
        self.serving.open()
        self.link = self._make_link()
        self.outbox = Outbox(self.link, self.store)
        right, total = self.store.hit_counts()
        prequential = Prequential(right=right, total=total, newest=self.store.hits(WINDOW))
        self.ingest = Ingest(
            config, self.link, self.store, self.outbox, self.serving, prequential
        )
        self.supervisor = Supervisor(
            limit=self.plan.learner_limit, idle=config.grow.idle_exit, wake=self.link.wake
        )
        self.announcer = Announcer(self)
        self.orders = Orders(self)
        self.orders.sweep()
        self._record_start()
        for what in (signal.SIGTERM, signal.SIGINT):
            signal.signal(what, self._on_signal)
        self.link.start()
        notify("READY=1")

    def _check_input(self) -> None:
        """A log holds samples of one kind and shape."""
        wanted = json.dumps([self.config.input.kind, self.config.input.shape])
        known = self.store.meta("input", wanted)
        if known != wanted:
            raise ConfigError(
                f"input.kind and input.shape are {wanted}, the log in {self.config.state} holds "
                f"{known}: change them back, or give this node a new state_dir"
            )
        with self.store.transaction():
            self.store.set_meta("input", wanted)

    def _record_start(self) -> None:
        with self.store.transaction():
            if self.store.meta("serving") is None and self.serving.predictor is not None:
                self.store.set_meta("serving", self.serving.number)
            for reason in self.serving.unusable:
                self.announcer.event("generation-unusable", "error", {"reason": reason})

    def _make_link(self) -> Link:
        will = Will(self.config.topics / "status", b"offline")
        return Link(
            self.config.mqtt, client_id=f"edgecc-{self.config.node}", will=will,
            receive_maximum=self.plan.receive_maximum,
        )

    def _on_signal(self, _number: int, _frame: Any) -> None:
        self.stopping = True
        self.link.wake()

    # --- one turn ---

    def _turn(self) -> None:
        busy = self.serving.catch_up()
        events = self.link.take(256, 0.0 if busy else _PATIENCE)
        self._take_in(events)
        self.orders.follow()
        self._swap()
        self._refresh()
        self.orders.give()
        self._announce()
        self._tidy()
        self.outbox.pump()

    def _take_in(self, events: list[Event]) -> None:
        messages = [event for event in events if isinstance(event, Inbound)]
        for event in events:
            if isinstance(event, Connected):
                self._on_connected(event)
            elif isinstance(event, Disconnected):
                self._on_disconnected(event)
            elif isinstance(event, Subscribed):
                self._on_subscribed(event)
            elif isinstance(event, Published) and not self.outbox.published(event):
                log.error("the broker refused a message: %s", event.failure)
        if messages:
            for item in self.ingest.batch(messages):
                self._answer(item)

    def _on_connected(self, event: Connected) -> None:
        log.info("connected to the broker, connection %d", event.connection)
        self.outbox.connected(event.window, event.max_packet)
        filters = self.config.topics.subscriptions()
        before = json.loads(self.store.meta("filters", "[]"))
        if stale := [name for name in before if name not in filters]:
            self.link.unsubscribe(stale)
        self.link.subscribe(filters)
        with self.store.transaction():
            self.store.set_meta("filters", json.dumps(filters))
            if before and not event.session_present:
                self.announcer.event("session-lost", "warning", {
                    "what": "the broker had forgotten this node; re-send what has no receipt"
                })
        self._ever_connected, self._connected_at = True, time.monotonic()

    def _on_disconnected(self, event: Disconnected) -> None:
        self.outbox.disconnected()
        if event.refused:
            raise AuthError(f"the broker refuses this node: {event.reason}")
        if self.config.mqtt.host is None and not self._ever_connected:
            raise ConfigError(
                f"no broker on localhost:{self.config.mqtt.port} ({event.reason}): set mqtt.host "
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
                      "name %r? Each needs its own `node`", self.config.node)

    def _on_subscribed(self, event: Subscribed) -> None:
        if event.refused:
            raise AuthError(f"the broker denies a subscription: {', '.join(event.refused)}")
        self.announcer.online()
        self.link.publish(self.config.topics / "in/canary", str(self.link.connection).encode())

    def _answer(self, item: Command | ChunkRequest | Canary) -> None:
        if isinstance(item, Command):
            answer(self, item)
        elif isinstance(item, Canary):
            log.info("the broker delivers what is published to this node")
        else:
            try:
                serve(item, self.serving.path(item.generation), self.config.topics, self.outbox)
            except MessageError as error:
                log.warning("chunk request of %s: %s", item.client, error)

    # --- readout ---

    def _refresh(self) -> None:
        predictor, now = self.serving.predictor, time.monotonic()
        if predictor is not None and predictor.stale and now - self._last["refresh"] > _REFRESH:
            predictor.refresh()
            self._last["refresh"] = time.monotonic()
            if predictor.cursor - self._snapshot_cursor() >= _SNAPSHOT_LABELS:
                self._snapshot()

    def _snapshot_cursor(self) -> int:
        return int(self.store.meta("snapshot", 0))

    def _snapshot(self) -> None:
        self.serving.save_snapshot()
        with self.store.transaction():
            predictor = self.serving.predictor
            cursor = 0 if predictor is None else predictor.cursor
            self.store.set_meta("snapshot", cursor)
            if not self._unsettled():
                self._remove_unlearnt(cursor)

    def _unsettled(self) -> bool:
        """True while a growth or a generation in waiting still reads the log's past."""
        return self.serving.successor is not None or bool(self.store.open_growths())

    def _remove_unlearnt(self, cursor: int) -> None:
        for row in self.store.unlearnt(cursor):
            self.store.remove_sample(row)
            self.store.set_meta("unlearnt_through", cursor)

    def _swap(self) -> None:
        manifest = self.serving.swap()
        if manifest is None:
            return
        with self.store.transaction():
            self.store.set_meta("serving", manifest.number)
            self.store.set_meta("successor", -1)
            self.announcer.event("generation", "info", {
                "generation": manifest.number, "digest": manifest.digest,
                "blocks": len(manifest.blocks) - 1, "metrics": dict(manifest.metrics),
                "labels": self.store.last_label(),
            })
        self._snapshot()

    # --- housekeeping ---

    def _announce(self) -> None:
        """Whatever made another generation serve, the broker hears of it."""
        if self.serving.number != self._announced and self.outbox.window:
            self._announced = self.serving.number
            log.info("generation %d serves", self._announced)
            self.announcer.checkpoints()
            self.announcer.health()

    def _tidy(self) -> None:
        now = time.monotonic()
        if self.outbox.unsettled and now - self._last["settle"] > _SETTLE:
            with self.store.transaction():
                self.outbox.settle()
            self._last["settle"] = now
        if now - self._last["health"] > self.announcer.HEALTH_EVERY and self.outbox.window:
            self.announcer.health()
            self._last["health"] = now
        self._retain()
        if now - self._last["forget"] > _FORGET_EVERY:
            with self.store.transaction():
                self.store.forget_ids(time.time() - self.config.mqtt.session_expiry)
            self._last["forget"] = now
        if not self.link.alive:
            raise RuntimeError("the network thread has died")

    def _retain(self) -> None:
        """Keep the log under disk_budget, looking every so many samples."""
        rows = self.store.last_row()
        if rows - self._looked_at < _RETAIN_EVERY:
            return
        budget = self.config.disk_budget
        if not over_budget(self.store, budget):
            self._looked_at = rows
            return
        if self.serving.predictor and self.serving.predictor.cursor > self._snapshot_cursor():
            self._snapshot()
        learnt = 0 if self._unsettled() else self._snapshot_cursor()
        with self.store.transaction():
            gone = evict(self.store, budget=budget, learnt=learnt, limit=_EVICT_AT_ONCE)
        if not gone:
            self._looked_at = rows
        log.debug("%d samples evicted to stay within disk_budget", gone)

    def _stop(self) -> None:
        """Drain, save, say goodbye."""
        log.info("stopping")
        notify("STOPPING=1")
        self.supervisor.stop()
        self._take_in(self.link.take(1024, 0.0))
        self.outbox.drop_volatile()
        self.announcer.offline()
        deadline = time.monotonic() + _FAREWELL
        while not self.outbox.idle and self.outbox.window and time.monotonic() < deadline:
            self.outbox.pump()
            self._take_in(self.link.take(64, 0.05))
        self._snapshot()  # the broker may have sent more samples until now
        with self.store.transaction():
            self.outbox.settle()
        self.link.stop()
        self.store.close()


@contextmanager
def _only_one(path: Path) -> Iterator[TextIO]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another edgecc runs on {path.parent}; give this one its own state_dir"
            ) from error
        file.write(str(os.getpid()))
        file.flush()
        yield file
