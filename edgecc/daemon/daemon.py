"""`edgecc start`: wires the parts, then turns: messages in, learner followed, messages out.

Everything here runs in one thread. The network has a thread of its own that only queues events,
the learner a process of its own. Nothing acknowledged is lost, whatever is killed and when.
"""

import logging
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from edgecc.checkpoint.keyring import open_or_make
from edgecc.checkpoint.transfer import serve
from edgecc.config.schema import Config
from edgecc.daemon.commands import answer
from edgecc.daemon.disk_full import Shortage, is_full
from edgecc.daemon.governor import Governor
from edgecc.daemon.growths import Orders
from edgecc.daemon.push import Pushing
from edgecc.daemon.session import Session
from edgecc.daemon.status import Announcer
from edgecc.daemon.trial import Trial
from edgecc.daemon.unlearning import Forgetting
from edgecc.daemon.upkeep import Upkeep
from edgecc.errors import MessageError, StorageFull
from edgecc.host import allocator
from edgecc.host.lock import locked
from edgecc.host.systemd import notify
from edgecc.host.watchdog import Watchdog
from edgecc.ingest.monitor import Monitor
from edgecc.ingest.pipeline import Ingest
from edgecc.ingest.prequential import WINDOW, Prequential
from edgecc.mqtt.connection import Event, Link, Said, Will
from edgecc.mqtt.outbox import Outbox
from edgecc.plan import budget
from edgecc.plan.budget import planned
from edgecc.plan.plan import most_classes
from edgecc.protocol.messages import Canary, Chunk, ChunkRequest, Command, Inbound
from edgecc.serving import unknown
from edgecc.serving.generations import Serving
from edgecc.serving.input_check import check_input
from edgecc.store import meta
from edgecc.store.writer import Store
from edgecc.training.supervisor import Supervisor

log = logging.getLogger(__name__)

_REFRESH = 0.2  # seconds between two solves of the readout while labels stream in
_PATIENCE = 0.05  # seconds to wait for messages when there is nothing else to do
_SNAPSHOT_LABELS = 5000
_FAREWELL = 5.0  # seconds for the last messages to leave


class Daemon:
    def __init__(self, config: Config, reread: Callable[[], Config]) -> None:
        self.config = self.given = config
        self.reread = reread  # the configuration as it is now
        self.paused = False
        self.stopping = False
        self._refreshed = 0.0
        self._announced = -1  # number of the generation last announced as serving
        self._said: deque[Said] = deque()  # heard from the network, not yet taken in
        self._messages: list[Inbound] = []

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit code."""
        self.config.state.make()
        with locked(self.config.state.lock, "give this one its own state_dir"):
            with allocator.little_code():
                self._start()
            while not self.stopping:
                try:
                    self._turn()
                except (StorageFull, OSError) as error:
                    self.shortage.sit_out(error)
                self.watchdog.feed()
            self._stop()
        return 0

    # --- start ---

    def _start(self) -> None:
        self._open()
        self.revive()
        with self.store.transaction():
            self.announcer.limited(self.budget)
        for what in (signal.SIGTERM, signal.SIGINT):
            signal.signal(what, self._on_signal)
        self.governor.start()
        self.link.start()
        allocator.let_go()
        notify("READY=1")

    def _open(self) -> None:
        """What there is once in a process."""
        config = self.config
        self.budget = budget.of(config)
        self.plan, stem = planned(config)
        grow = replace(config.grow, blocks=len(self.plan.blocks))  # none where none fits
        config = self.config = replace(config, grow=grow)
        self.keys = open_or_make(config.state)
        self.store = Store(config.state.log)
        self._stem = stem
        check_input(config, self.store)
        self.link = self._make_link()
        self.outbox = Outbox(self.link, self.store)
        self.announcer = Announcer(self)
        self.supervisor = Supervisor(
            limit=self.plan.learner_limit, idle=config.grow.idle_exit, wake=self.link.wake
        )
        self.session, self.shortage = Session(self), Shortage(self)
        self.governor = Governor(self)
        self.trial, self.pushing = Trial(self), Pushing(self)
        self.watchdog = Watchdog(lambda: self.link.rounds, self.supervisor.progress)
        self.store.on_progress(self.watchdog.feed)

    def revive(self) -> None:
        """What the node knows, from its log and its generations."""
        config, before = self.config, getattr(self, "ingest", None)
        self.trial.interrupt()
        self.serving = Serving(config, self.plan, self.store, self.keys, self._stem)
        self.serving.open()
        right, total = self.store.hit_counts()
        prequential = Prequential(right=right, total=total, newest=self.store.hits(WINDOW))
        self.watch = Monitor(config, self.store, self.announcer.event)
        self.ingest = Ingest(
            config, self.link, self.store, self.outbox, self.serving, prequential, self.watch,
            unknown.Unknown(config.unknown.rate),
            most_classes(self.plan, config.input_spec, config.max_classes),
        )
        if before is not None:
            self.ingest.acked, self.ingest.taken = before.acked, before.taken
        for body in self.store.right_predictions(unknown.WINDOW):
            self.ingest.note_right(body)
        self.upkeep, self.forgetting, self.orders = Upkeep(self), Forgetting(self), Orders(self)
        self._record_start()
        self.orders.sweep()

    def _record_start(self) -> None:
        with self.store.transaction():
            if self.store.meta(meta.SERVING) is None and self.serving.predictor is not None:
                self.store.set_meta(meta.SERVING, self.serving.number)
            self.store.set_meta(meta.STEM, self.serving.stem)
            if self.serving.stem_changed:
                self._follow_stem()
            for number, reason in self.serving.unusable.items():
                self.announcer.event(
                    "generation-unusable", "error", {"generation": number, "reason": reason})

    def _follow_stem(self) -> None:
        """The configured stem is the next to serve; what is being grown stands on the other one."""
        assert self.serving.successor is not None
        self.serving.set_next(self.serving.successor.generation.manifest.number)
        for growth in self.store.open_growths():
            self.store.close_growth(growth.number)

    def _make_link(self) -> Link:
        will = Will(self.config.topics / "status", b"offline")
        return Link(
            self.config.mqtt, client_id=f"edgecc-{self.config.node}", will=will,
            receive_maximum=self.plan.receive_maximum, hold=self.plan.hold,
        )

    def _on_signal(self, _number: int, _frame: Any) -> None:
        self.stopping = True
        self.link.wake()

    # --- one turn ---

    def _turn(self) -> None:
        busy = self.serving.catch_up()
        most = 1 if self.serving.predictor is None else 256  # the second sample is predicted
        self._take_in(self.link.take(most, 0.0 if busy else _PATIENCE))
        self.orders.follow()
        self._swap()
        self.trial.step()
        self.forgetting.step()
        self.governor.turn()
        self.orders.give()
        self._announce()
        self.session.turn()
        self.upkeep.turn()
        self.outbox.pump()
        self._refresh()  # what is said by now need not wait for it
        if not self.link.alive:
            raise RuntimeError("the network thread has died")

    def _take_in(self, events: list[Event]) -> None:
        self._hear(events)
        if self._messages:
            for item in self.ingest.batch(self._messages):
                self._answer(item)

    def _hear(self, events: list[Event]) -> None:
        messages = [event for event in events if isinstance(event, Inbound)]
        self._messages += messages
        self.session.heard(message.topic for message in messages)
        self._said += [event for event in events if not isinstance(event, Inbound)]
        while self._said:
            self.session.take(self._said[0])
            self._said.popleft()

    def hear(self) -> None:
        """Follow the session, but take no message in; of those the broker sends again, keep one."""
        with suppress(StorageFull):
            self._hear(self.link.take(256, _PATIENCE))
        stale = [m for m in self._messages if m.qos and m.connection != self.link.connection]
        for message in stale:
            self.link.ack(message)
            self._messages.remove(message)

    def _answer(self, item: Command | ChunkRequest | Chunk | Canary) -> None:
        if isinstance(item, Command):
            answer(self, item)
        elif isinstance(item, Chunk):
            self.pushing.take(item.payload)
        elif isinstance(item, Canary):
            if not self.ingest.quotas.returned(item.token):
                self.session.returned(item.token)
        else:
            try:
                serve(item, self.serving.path(item.generation), self.config.topics, self.outbox)
            except MessageError as error:
                log.warning("chunk request of %s: %s", item.client, error)

    # --- readout ---

    def _refresh(self) -> None:
        predictor, now = self.serving.predictor, time.monotonic()
        if predictor is not None and predictor.stale and now - self._refreshed > _REFRESH:
            predictor.refresh()
            self._refreshed = time.monotonic()
            if predictor.cursor - self.snapshot_cursor >= _SNAPSHOT_LABELS:
                self.snapshot()

    def snapshot(self) -> None:
        """Save the live readout: the next start goes on from it, and what it has may be evicted."""
        with self.store.transaction():
            self.write_snapshot()

    def write_snapshot(self) -> None:
        """The same, inside a transaction."""
        predictor = self.serving.predictor
        self.serving.save_snapshot()
        self.store.set_meta(meta.SNAPSHOT, 0 if predictor is None else predictor.cursor)

    @property
    def snapshot_cursor(self) -> int:
        return self.store.meta(meta.SNAPSHOT)

    def _swap(self) -> None:
        manifest = self.serving.swap()
        if manifest is None:
            return
        self.snapshot()  # before it counts as serving, and goes on from there after a crash
        with self.store.transaction():
            self.serving.set_serving(manifest.number)
            self.announcer.event("generation", "info", {
                "generation": manifest.number, "digest": manifest.digest,
                "blocks": len(manifest.blocks) - 1, "metrics": dict(manifest.metrics),
                "labels": self.store.last_label(),
            })

    def _announce(self) -> None:
        """Whatever made another generation serve, the broker hears of it."""
        if self.serving.number != self._announced and self.outbox.window:
            self._announced = self.serving.number
            log.info("generation %d serves", self._announced)
            self.announcer.checkpoints()
            self.announcer.health()

    def _stop(self) -> None:
        """Drain, save, say goodbye."""
        log.info("stopping")
        notify("STOPPING=1")
        self.supervisor.stop()
        try:
            self._say_goodbye()
            self.snapshot()  # the broker may have sent more samples until now
            with self.store.transaction():
                self.outbox.settle()
        except (StorageFull, OSError) as error:
            if not is_full(error):
                raise
            log.error("%s: the next start replays what could not be saved", error)
        self.link.stop()
        self.store.close()

    def _say_goodbye(self) -> None:
        if self.shortage.since is None:
            self._take_in(self.link.take(1024, 0.0))
        self.outbox.drop_volatile()
        self.announcer.offline()
        deadline = time.monotonic() + _FAREWELL
        while not self.outbox.idle and self.outbox.window and time.monotonic() < deadline:
            self.outbox.pump()
            if self.shortage.since is None:
                self._take_in(self.link.take(64, 0.05))
            else:
                self.hear()
