"""What the learner is asked to do, and what becomes of its answers."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecc.checkpoint import generation
from edgecc.checkpoint import snapshot as known
from edgecc.errors import StorageFull
from edgecc.host import files
from edgecc.plan import fallback as steps
from edgecc.plan.plan import Plan
from edgecc.store import meta
from edgecc.store.reader import Growth
from edgecc.training.orders import KNOWN, Order

if TYPE_CHECKING:
    from edgecc.daemon.daemon import Daemon

log = logging.getLogger(__name__)

_GIVE_UP = 5  # failures in one growth after which it is given up


class Orders:
    """One growth at a time, in the order of their labels."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._endings: Counter[str] = Counter()
        self._of = json.dumps(daemon.plan.describe())

    # --- how much of the plan there is memory for ---

    @property
    def steps(self) -> int:
        """Steps down since memory ran out under what is planned now; a restart keeps them."""
        found: int = json.loads(self._daemon.store.meta(meta.STEPS_DOWN)).get(self._of, 0)
        return found

    @property
    def plan(self) -> Plan:
        """What growths that begin now are planned with."""
        config = self._daemon.config
        return steps.down(
            self._daemon.plan, self.steps, config.input_spec,
            max_payload=config.mqtt.max_payload, costs=self._daemon.budget.costs,
            classes=config.max_classes, backend=config.grow.backend)

    def _step_down(self, growth: int) -> None:
        """Begin it anew with the next smaller plan; without blocks, where none is left."""
        daemon, before = self._daemon, self.plan
        with daemon.store.transaction():
            daemon.store.set_meta(meta.STEPS_DOWN, json.dumps({self._of: self.steps + 1}))
            now = self.plan
            daemon.announcer.event("plan-smaller", "warning", {
                "growth": growth, "steps": self.steps, "before": _told(before), "now": _told(now)})
        log.warning("growth %d begins anew with a smaller plan: %s", growth, _told(now))
        self.begin_anew([growth])

    # --- orders ---

    def give(self) -> None:
        """Ask for the next open growth, once what serves is settled."""
        daemon = self._daemon
        if daemon.paused or not daemon.supervisor.ready or daemon.serving.successor is not None:
            return
        if daemon.forgetting.busy or daemon.trial.busy or not daemon.governor.allows:
            return
        live = daemon.serving.predictor
        for growth in daemon.store.open_growths()[:1]:
            if live is None or live.cursor < growth.cursor:
                return
            if self.plan.blocks:
                daemon.supervisor.give(self._order(growth))
            else:
                log.warning("growth %d is left out: there is no memory for blocks", growth.number)
                self._close(growth.number)

    def follow(self) -> None:
        """Take in what the learner has said, once no trial needs what serves to stay."""
        supervisor = self._daemon.supervisor
        supervisor.look()
        while not self._daemon.trial.busy and not supervisor.messages.empty():
            message = supervisor.messages.get()
            if message is None:
                self._ended()
            elif message["type"] == "train":
                self._daemon.announcer.train(message)
            elif message["type"] == "verdict":
                self._verdict(message)
            elif message["type"] == "done":
                self._close(message["growth"])
            else:
                log.error("learner: %s", message["reason"])

    def _order(self, growth: Growth) -> Order:
        """The order of a growth; what it started from is written down once."""
        config, folder = self._daemon.config, self._folder(growth.number)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "order.json"
        if not path.exists():
            started = {
                "parent": self._daemon.serving.number, "plan": self.plan.describe(),
                "threads": config.grow.threads, "known": self._keep_known(growth),
            }
            files.replace(path, json.dumps(started).encode())
        started = json.loads(path.read_text())
        return Order(
            growth=growth.number, cursor=growth.cursor, recipe=growth.recipe,
            parent=str(self._daemon.serving.path(started["parent"])),
            keys=[key.encode().hex() for key in self._daemon.keys.trusted],
            log=str(config.state.log), folder=str(folder), input=asdict(config.input),
            plan=started["plan"], seed=growth.recipe["seed"], threads=started["threads"],
        )

    def _keep_known(self, growth: Growth) -> int | None:
        """Where rows were evicted, or are another node's: save what serves knows of them; at which
        label it does.

        The live readout, or that of its generation where rows have left that were labelled after
        the growth's cursor (it is grown anew): of these the growth must know nothing.
        """
        serving, store = self._daemon.serving, self._daemon.store
        path = self._folder(growth.number) / KNOWN
        path.unlink(missing_ok=True)
        if serving.predictor is None:
            return None
        now = serving.predictor.generation.manifest
        if not (now.others or store.evicted_after(0)):
            return None
        digest = now.digest
        readout, cursor = serving.predictor.readout, serving.predictor.cursor
        if store.evicted_after(growth.cursor):
            saved = serving.load(serving.number)
            readout, cursor = saved.readout, saved.manifest.cursor
            if cursor > growth.cursor or store.knows_forgotten(cursor):
                return None
        known.write(path, digest, readout, cursor)
        return cursor

    def _verdict(self, verdict: dict[str, Any]) -> None:
        """Record it once; an accepted candidate then takes its turn, over a crash as well."""
        daemon, candidate, number = self._daemon, verdict.pop("candidate", None), None
        verdict = {name: _finite(value) for name, value in verdict.items()}
        if candidate is not None:
            number = daemon.serving.adopt(Path(candidate), verdict["digest"])
        with daemon.store.transaction():
            new = daemon.store.add_verdict(verdict["growth"], verdict["block"], verdict)
            if new:
                daemon.announcer.event("verdict", "info", verdict)
            if new and number is not None:
                daemon.serving.set_next(number)
        log.info("growth %(growth)d block %(block)d: held-out %(held_out)s against "
                 "%(held_out_serving)s, accepted: %(accepted)s", verdict)
        if new and number is not None:
            daemon.serving.roll_to(number)  # once it has caught up

    def _close(self, number: int) -> None:
        daemon = self._daemon
        with daemon.store.transaction():
            daemon.store.close_growth(number)
        shutil.rmtree(self._folder(number), ignore_errors=True)
        daemon.supervisor.done()
        self._endings.clear()
        daemon.announcer.train({"phase": "idle", "growth": number})

    def _ended(self) -> None:
        """The learner's process is gone: idle, killed, out of memory, or at fault."""
        daemon, order = self._daemon, self._daemon.supervisor.order
        why = daemon.supervisor.ended()
        if why is None or why == "killed" or order is None:
            return
        if not daemon.store.has_room():
            raise StorageFull(f"{daemon.config.state}: no room for what the learner writes")
        self._endings[why] += 1
        with daemon.store.transaction():
            daemon.announcer.event(f"learner-{why}", "warning", {
                "growth": order.growth, "times": self._endings[why],
                "limit": daemon.plan.learner_limit,
            })
        if why == "memory":
            self._step_down(order.growth)
        elif self._endings[why] == _GIVE_UP:
            log.error("growth %d given up; predictions and labels go on", order.growth)
            self._close(order.growth)

    def abandon(self, trunk: int) -> None:
        """Close every open growth: an operator wants the trunk that growth `trunk` made."""
        self._daemon.supervisor.drop()
        for growth in self._daemon.store.open_growths():
            self._close(growth.number)
        with self._daemon.store.transaction():
            self._daemon.store.set_growths_aside(trunk)

    def begin_anew(self, numbers: Collection[int]) -> None:
        """What these growths have done so far is deleted, and not heard of any more."""
        order = self._daemon.supervisor.order
        if order is not None and order.growth in numbers:
            self._daemon.supervisor.drop()
        for number in numbers:
            shutil.rmtree(self._folder(number), ignore_errors=True)
        self._endings.clear()

    def sweep(self) -> None:
        """Remove what closed growths left behind when a crash came in between, and what open ones
        have done on a generation that cannot be used any more: they begin anew."""
        unusable = self._daemon.serving.unusable
        self.begin_anew([n for n, parent in self.started.items() if parent in unusable])
        open_now = {growth.number for growth in self._daemon.store.open_growths()}
        root = self._daemon.config.state.growths
        for folder in root.iterdir() if root.exists() else ():
            if folder.name.isdigit() and int(folder.name) not in open_now:
                shutil.rmtree(folder)

    @property
    def parents(self) -> set[int]:
        """Generations that open growths start from, which must not be pruned."""
        return set(self.started.values())

    @property
    def started(self) -> dict[int, int]:
        """Open growths that have begun, each with the generation it starts from."""
        return {growth.number: begun["parent"] for growth, begun in self._begun()}

    @property
    def reached(self) -> dict[int, int]:
        """Open growths, each with the newest label that anything in its folder knows of."""
        found = {growth.number: growth.cursor for growth in self._daemon.store.open_growths()}
        return found | {growth.number: max(growth.cursor, begun.get("known") or 0)
                        for growth, begun in self._begun()}

    def _begun(self) -> Iterator[tuple[Growth, dict[str, Any]]]:
        for growth in self._daemon.store.open_growths():
            path = self._folder(growth.number) / "order.json"
            if path.exists():
                yield growth, json.loads(path.read_text())

    def _folder(self, number: int) -> Path:
        return self._daemon.config.state.growths / generation.name_of(number)


def _told(plan: Plan) -> dict[str, Any]:
    return {"channels": [block.channels for block in plan.blocks], "batch": plan.batch,
            "backend": plan.backend}


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity, as comparisons of no or one held-out row come to."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
