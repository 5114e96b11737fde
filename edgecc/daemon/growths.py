"""One growth at a time: what the learner is asked to do, and what becomes of its answers."""

import json
import logging
import math
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecc.checkpoint import generation
from edgecc.checkpoint.readout_file import write_snapshot
from edgecc.daemon.node import Node
from edgecc.errors import StorageFull
from edgecc.host import files
from edgecc.plan import planner
from edgecc.plan.plan import Plan
from edgecc.store import meta
from edgecc.store.growth_log import Growth
from edgecc.training.orders import KNOWN, Order
from edgecc.training.supervisor import Supervisor

log = logging.getLogger(__name__)

_GIVE_UP = 5  # failures in one growth after which it is given up


@dataclass(frozen=True)
class Origin:
    """What a growth started from, written into its folder once; a restart of the node keeps it."""

    parent: int  # generation
    plan: dict[str, Any]
    threads: int
    known: int | None  # newest label that the readout in its folder knows, where there is one


class Growths:
    def __init__(
        self, node: Node, supervisor: Supervisor, progress: Callable[[dict[str, Any]], None]
    ) -> None:
        """progress: publishes the learner's progress."""
        self._node, self._supervisor, self._progress = node, supervisor, progress
        self._store, self._serving = node.store, node.serving
        self._endings: Counter[str] = Counter()
        self._full_plan = json.dumps(node.plan.describe())

    @property
    def steps(self) -> int:
        """Steps down since memory ran out under today's plan; a restart keeps them."""
        return int(json.loads(self._store.meta(meta.STEPS_DOWN)).get(self._full_plan, 0))

    @property
    def plan(self) -> Plan:
        """The plan of growths that start now."""
        config = self._node.config
        return planner.step_down(
            self._node.plan, self.steps, config.input,
            max_payload=config.mqtt.max_payload, costs=self._node.budget.costs,
            classes=config.max_classes, backend=config.grow.backend)

    def _step_down(self, growth: int) -> None:
        """Restart a growth with the next smaller plan; without blocks, if none is left."""
        before = self.plan
        with self._store.transaction():
            self._store.set_meta(meta.STEPS_DOWN, json.dumps({self._full_plan: self.steps + 1}))
            now = self.plan
            self._node.events.record("plan-smaller", "warning", {
                "growth": growth, "steps": self.steps,
                "before": _summary(before), "now": _summary(now)})
        log.warning("growth %d restarts with a smaller plan: %s", growth, _summary(now))
        self.restart([growth])

    def give(self) -> None:
        """Ask for the next open growth, once what serves is settled and knows its labels."""
        node, live = self._node, self._serving.predictor
        if not self._supervisor.ready or self._serving.changing or node.store.requests.busy:
            return
        for growth in self._store.growths.unfinished()[:1]:
            if live is None or live.cursor < growth.cursor:
                return
            if self.plan.blocks:
                self._supervisor.give(self.order(growth))
            else:
                log.warning("growth %d is left out: not enough memory for blocks", growth.number)
                self.close(growth.number)

    def follow(self) -> None:
        """Take in the learner's messages; during a trial what serves stays, and they wait."""
        self._supervisor.look()
        while self._serving.candidate is None and not self._supervisor.messages.empty():
            message = self._supervisor.messages.get()
            if message is None:
                self._ended()
            elif message["type"] == "train":
                self._progress(message)
            elif message["type"] == "verdict":
                self.take_verdict(message)
            elif message["type"] == "done":
                self.close(message["growth"])
            else:
                log.error("learner: %s", message["reason"])

    def order(self, growth: Growth) -> Order:
        """The order for a growth, from what it started from."""
        config, folder = self._node.config, self._folder(growth.number)
        origin = self._origin(growth.number) or self._start(growth)
        return Order(
            growth=growth.number, cursor=growth.cursor, recipe=growth.recipe,
            parent=str(self._node.generations.path(origin.parent)),
            keys=[key.encode().hex() for key in self._node.keys.trusted],
            log=str(config.state.log), folder=str(folder), input=asdict(config.input),
            plan=origin.plan, threads=origin.threads,
        )

    def _start(self, growth: Growth) -> Origin:
        folder = self._folder(growth.number)
        folder.mkdir(parents=True, exist_ok=True)
        origin = Origin(
            parent=self._serving.number, plan=self.plan.describe(),
            threads=self._node.config.grow.threads, known=self._save_known(growth))
        files.replace(folder / "order.json", json.dumps(asdict(origin)).encode())
        return origin

    def _save_known(self, growth: Growth) -> int | None:
        """Save the readout for a learner that cannot replay every label; returns its cursor.

        It cannot where rows were evicted or are another node's. It gets the live readout, or the
        generation's own where evicted rows were labelled after the growth's cursor (it runs again).
        """
        store, predictor = self._store, self._serving.predictor
        path = self._folder(growth.number) / KNOWN
        path.unlink(missing_ok=True)
        if predictor is None or not (predictor.manifest.others or store.evicted_after(0)):
            return None
        readout, cursor = predictor.readout, predictor.cursor
        if store.evicted_after(growth.cursor):
            saved = self._node.generations.load(self._serving.number)
            readout, cursor = saved.readout, saved.manifest.cursor
            if cursor > growth.cursor or store.knows_unlearnt(cursor):
                return None
        write_snapshot(path, predictor.manifest.digest, readout, cursor)
        return cursor

    def take_verdict(self, verdict: dict[str, Any]) -> None:
        """Record it once; an accepted candidate then serves next, after a crash too."""
        node, candidate, number = self._node, verdict.pop("candidate", None), None
        verdict = {name: _finite(value) for name, value in verdict.items()}
        if candidate is not None:
            number = node.generations.take_in_once(Path(candidate), verdict["digest"])
        with self._store.transaction():
            new = self._store.growths.add_verdict(verdict["growth"], verdict["block"], verdict)
            if new:
                node.events.record("verdict", "info", verdict)
            if new and number is not None:
                self._serving.set_next(number)
        log.info("growth %(growth)d block %(block)d: held out by sample %(held_out)s against "
                 "%(held_out_serving)s, accepted: %(accepted)s", verdict)
        if new and number is not None:
            self._serving.roll_to(number)

    def close(self, number: int) -> None:
        with self._store.transaction():
            self._store.growths.close(number)
        shutil.rmtree(self._folder(number), ignore_errors=True)
        self._supervisor.done()
        self._endings.clear()
        self._progress({"phase": "idle", "growth": number})

    def _ended(self) -> None:
        """The learner's process is gone: idle, killed, out of memory, or at fault."""
        order, why = self._supervisor.order, self._supervisor.ended()
        if why is None or why == "killed" or order is None:
            return
        if not self._store.has_room():
            raise StorageFull(f"{self._node.config.state}: no room for what the learner writes")
        self._endings[why] += 1
        self._node.events.note(f"learner-{why}", "warning", {
            "growth": order.growth, "times": self._endings[why],
            "limit": self._node.plan.learner_limit})
        if why == "memory":
            self._step_down(order.growth)
        elif self._endings[why] == _GIVE_UP:
            log.error("growth %d given up; predictions and labels go on", order.growth)
            self.close(order.growth)

    def abandon(self, trunk: int) -> None:
        """Close every open growth: an operator wants the trunk that growth `trunk` made."""
        self._supervisor.stop()
        for growth in self._store.growths.unfinished():
            self.close(growth.number)
        with self._store.transaction():
            self._store.growths.roll_back(trunk)

    def restart(self, numbers: Collection[int]) -> None:
        """Delete what these growths have done so far; messages about it are dropped."""
        order = self._supervisor.order
        if order is not None and order.growth in numbers:
            self._supervisor.stop()
        for number in numbers:
            shutil.rmtree(self._folder(number), ignore_errors=True)
        self._endings.clear()

    def sweep(self) -> None:
        """After a start: restart growths on generations that cannot be used any more, and delete
        what closed growths left behind in a crash."""
        unusable = self._node.generations.unusable
        self.restart([n for n, parent in self.parents.items() if parent in unusable])
        open_now = {growth.number for growth in self._store.growths.unfinished()}
        root = self._node.config.state.growths
        for folder in root.iterdir() if root.exists() else ():
            if folder.name.isdigit() and int(folder.name) not in open_now:
                shutil.rmtree(folder)

    @property
    def parents(self) -> dict[int, int]:
        """Generation that each growth under way started from."""
        return {growth.number: origin.parent for growth, origin in self._under_way()}

    @property
    def reached(self) -> dict[int, int]:
        """Newest label that anything in each open growth's folder knows."""
        cursors = {growth.number: growth.cursor for growth in self._store.growths.unfinished()}
        return cursors | {growth.number: max(growth.cursor, origin.known or 0)
                          for growth, origin in self._under_way()}

    def _under_way(self) -> Iterator[tuple[Growth, Origin]]:
        for growth in self._store.growths.unfinished():
            origin = self._origin(growth.number)
            if origin is not None:
                yield growth, origin

    def _origin(self, number: int) -> Origin | None:
        path = self._folder(number) / "order.json"
        return Origin(**{"known": None} | json.loads(path.read_text())) if path.exists() else None

    def _folder(self, number: int) -> Path:
        return self._node.config.state.growths / generation.name_of(number)


def _summary(plan: Plan) -> dict[str, Any]:
    return {"channels": [block.channels for block in plan.blocks], "batch": plan.batch,
            "backend": plan.backend}


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity, which comparisons on no or one held-out row come to."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
