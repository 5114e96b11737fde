"""Unlearning, one request at a time: asked → flagged → erased → (deep: scrubbed → rolling) → done.

Each step is one transaction that can be done again, so a request ends whatever is killed and when.
From its answer on, nothing serves its samples' labels, trains on them, or takes them in again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from edgecc.checkpoint import generation
from edgecc.checkpoint.manifest import Manifest
from edgecc.errors import CheckpointError, StoreError
from edgecc.mqtt.reply import reply
from edgecc.plan.schedule import open_growth
from edgecc.protocol.decode import id_of, source_of
from edgecc.protocol.messages import Command
from edgecc.protocol.selection import Selection, asker, parse
from edgecc.serving.influence import Influence, untouched
from edgecc.serving.predictor import Predictor
from edgecc.store import meta
from edgecc.store.erasure import Request

if TYPE_CHECKING:
    from edgecc.daemon.daemon import Daemon

log = logging.getLogger(__name__)

_NOT_ASKED = -1  # number of a request that is only looked at
REWRITE_AT_MOST = 256 * 2**20  # bytes of a log that is rewritten while the node waits


class Forgetting:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon, self._store = daemon, daemon.store
        sensor = daemon.config.input.kind == "sensor"
        self._influence = Influence(daemon.store, daemon.serving, sensor=sensor)
        self._rewritten = 0  # newest request for which the log was rewritten

    @property
    def busy(self) -> bool:
        """True while a request is under way: no growth starts, no other generation is wanted."""
        return self._store.erasure.current() is not None

    def answer(self, command: Command) -> dict[str, Any] | None:
        """To `command/unlearn`: a preview, or what was answered before; None until it is done."""
        chosen = parse(command.args)
        if command.args.get("preview"):
            return self._preview(chosen)
        return self._store.erasure.answer_to(command.id) if command.id else None

    def step(self) -> None:
        """Go on as far as it goes now."""
        steps = {
            "asked": self._flag, "flagged": self._erase, "erased": self._scrub,
            "scrubbed": self._roll_back, "rolling": self._regrow,
        }
        while (request := self._store.erasure.current()) and steps[request.phase](request):
            pass

    # --- asked: choose the samples, take their labels back, stop what trains on them ---

    def _preview(self, chosen: Selection) -> dict[str, Any]:
        with self._store.tried():
            found, plan = self._choose(_NOT_ASKED, chosen)
        if not chosen.deep:
            return found
        return found | {"removed": [manifest.number for manifest in self._influence.generations()
                                    if not untouched(manifest, plan)]}

    def _flag(self, request: Request) -> bool:
        chosen, serving, daemon = parse(request.asked["args"]), self._daemon.serving, self._daemon
        with self._store.transaction():
            before = self._store.last_label()
            found, plan = self._choose(request.number, chosen)
            for seq in range(before + 1, plan["mark"] + 1):
                open_growth(self._store, daemon.config, seq)
            restarted = self._restart_growths(plan, deep=chosen.deep)
            cancelled = self._cancels_successor(plan)
            found["growths_restarted"] = sorted(restarted)
            request.answer.update(found)
            request.plan.update(plan)
            self._store.erasure.advance(request, "flagged")
        if cancelled:
            serving.cancel_next()
        return True

    def _choose(self, number: int, chosen: Selection) -> tuple[dict[str, Any], dict[str, Any]]:
        """Flag the samples; what is said of them, and what the steps to come need."""
        erasure = self._store.erasure
        bad = self._quarantined(chosen)
        erasure.drop_quarantined(bad)
        found = erasure.flag(number, chosen) | {"quarantined": len(bad)}
        if chosen.ids:  # a source may send again, this message may not
            erasure.know(bad.values())
        found["unknown"] = [one for one in found["unknown"] if one not in bad.values()]
        plan = self._influence.of(number, deep=chosen.deep) | {
            "learnt": bool(found["evicted"]), "rewrite": bool(bad)}
        found["generations"] = self._influence.parts(number, plan)
        found["serving"] = self._daemon.serving.number
        return found, plan

    def _quarantined(self, chosen: Selection) -> dict[int, str]:
        """The ids of chosen messages that could not be understood, by number in quarantine."""
        topics = self._daemon.config.topics
        identities = {}
        for seq, ts, message in self._store.quarantine_messages():
            levels = topics.levels(message.topic)
            identity = id_of(message, levels)
            if chosen.has(identity, source_of(levels), ts):
                identities[seq] = identity
        return identities

    def _restart_growths(self, plan: dict[str, Any], *, deep: bool) -> set[int]:
        """What open growths have done on these samples is deleted before the labels are taken back.

        With `deep`, so is what started from a generation that will be removed.
        """
        orders, first = self._daemon.orders, plan["first"]
        if first is None and plan["scaled"] is None:
            return set()
        numbers = {number for number, reached in orders.reached.items()
                   if first is not None and reached >= first}
        if deep:
            touched = {m.number for m in self._influence.generations() if not untouched(m, plan)}
            numbers |= {number for number, parent in orders.started.items() if parent in touched}
        begun = numbers & set(orders.started)
        orders.begin_anew(numbers)
        self._store.restart_growths(numbers)
        return begun

    def _cancels_successor(self, plan: dict[str, Any]) -> bool:
        """A trunk grown on these samples that has not served yet never will; it is grown again."""
        successor, first = self._daemon.serving.successor, plan["first"]
        if successor is None or first is None:
            return False
        grown = successor.generation.manifest.growth
        if not grown or self._store.growth_cursor(grown) < first:
            return False
        self._store.restart_growths([grown])
        self._daemon.serving.set_next(None)
        return True

    # --- flagged: once every readout has unlearnt them, erase ---

    def _erase(self, request: Request) -> bool:
        daemon, store, plan = self._daemon, self._store, request.plan
        readouts = [p for p in (daemon.serving.predictor, daemon.serving.successor) if p]
        if not all(_has_unlearnt(predictor, plan) for predictor in readouts):
            return False
        for predictor in readouts:
            predictor.readout.arrange(store.classes(predictor.cursor))
            predictor.refresh()
        daemon.snapshot()  # what it has unlearnt, it has for good, before the log forgets them
        with store.transaction():
            emptied = store.erasure.newest_of(request.number)
            plan["rewrite"] = plan["rewrite"] or bool(store.meta(meta.MOVED))
            store.erasure.erase(request.number, mark=plan["mark"], deep=plan["deep"])
            for source in emptied:
                daemon.outbox.put(daemon.config.topics.out(source, "state"), b"", retain=True)
            store.erasure.advance(request, "erased")
        return True

    # --- erased: leave nothing in the files ---

    def _scrub(self, request: Request) -> bool:
        plan = request.plan
        self._daemon.pushing.clear()
        if plan["rewrite"]:
            self._rewrite(request.number)
        if not self._store.scrub():
            return False
        request.answer["copies_possible"] = plan["rewrite"] and self._rewritten != request.number
        deep = plan["deep"] and (plan["first"] is not None or plan["scaled"] is not None)
        with self._store.transaction():
            if deep:
                self._store.erasure.advance(request, "scrubbed")
            else:
                self._done(request)
        if not deep:
            self._reply(request)
        return True

    def _rewrite(self, number: int) -> None:
        """Where rows were moved within the file, copies of what is erased may be left behind."""
        if self._rewritten == number or self._store.erasure.size > REWRITE_AT_MOST:
            return
        try:
            self._store.rewrite()
            self._rewritten = number
        except StoreError as error:
            log.warning("the log is not rewritten: %s", error)

    # --- deep: serve what never knew them, delete what did, grow again ---

    def _roll_back(self, request: Request) -> bool:
        daemon, plan = self._daemon, request.plan
        if daemon.serving.successor is not None:
            return False
        base, stems = self._base(plan), list[Manifest]()
        if base is None or plan["scaled"] is not None:
            stems = daemon.serving.new_stems(base)
            base = stems[-1] if stems else base
        plan["base"] = None if base is None else base.number
        keep = {m.number for m in self._influence.generations() if untouched(m, plan)}
        keep |= {stem.number for stem in stems}
        plan["removed"] = [n for n in generation.numbers(daemon.serving.folder) if n not in keep]
        swaps = base is not None and (plan["learnt"] or base.number != daemon.serving.number)
        request.answer["not_relearnt"] = 0
        if base is not None and swaps:
            daemon.serving.drop_snapshot()
            request.answer["not_relearnt"] = self._store.evicted_after(base.cursor)
        with self._store.transaction():
            self._store.erasure.advance(request, "rolling")
            if swaps:
                daemon.serving.set_next(plan["base"])
        if swaps:
            daemon.serving.roll_to(plan["base"])
        elif base is None:
            daemon.serving.predictor = None
        return True

    def _base(self, plan: dict[str, Any]) -> Manifest | None:
        """What serves, where it never knew the samples; else the newest generation before them."""
        aside, serving = self._store.growths_set_aside(), self._daemon.serving
        clean = [m for m in self._influence.generations() if untouched(m, plan)]
        clean.sort(key=lambda m: (m.number == serving.number, m.growth not in aside, m.number))
        for manifest in reversed(clean):
            try:
                return serving.load(manifest.number).manifest
            except CheckpointError as error:
                log.error("generation %d is unusable: %s", manifest.number, error)
        return None

    def _regrow(self, request: Request) -> bool:
        store, serving, plan = self._store, self._daemon.serving, request.plan
        if serving.successor is not None:
            return False
        if plan["base"] is not None and serving.next_number == plan["base"]:
            with store.transaction():  # it was damaged while the node was off
                serving.set_next(None)
                store.erasure.advance(request, "scrubbed")
            return True
        if plan["base"] is None:
            serving.predictor = None
        serving.catch_up_fully()
        serving.remove(plan["removed"])
        with store.transaction():
            self._renumber(request)
            self._done(request)
        serving.drop_snapshot(old=True)
        store.scrub()
        self._daemon.announcer.checkpoints()
        self._reply(request)
        return True

    def _renumber(self, request: Request) -> None:
        """The log as it were without the samples, and what grows from it again."""
        daemon, store, plan = self._daemon, self._store, request.plan
        first = store.last_label() + 1 if plan["first"] is None else plan["first"]
        store.erasure.compact(request.number, first)
        predictor, trunk = daemon.serving.predictor, 0
        if predictor is not None:
            trunk = predictor.generation.manifest.growth
            predictor.cursor = store.last_label()
            predictor.refresh()
        again = store.repeat_growths(trunk, 0 if plan["scaled"] else first)
        store.set_meta(meta.RENUMBERED, store.meta(meta.RENUMBERED) + 1)
        through = max([store.meta(meta.REMOVED_THROUGH), *plan["removed"]])
        store.set_meta(meta.REMOVED_THROUGH, through)
        daemon.serving.set_serving(plan["base"])
        daemon.write_snapshot()  # of the new numbers; read only once they are committed
        for number in plan["removed"]:
            daemon.outbox.put(daemon.config.topics.manifest(number), b"", retain=True)
        request.answer.update(base=plan["base"], removed=plan["removed"], growths_again=again)

    # --- done ---

    def _done(self, request: Request) -> None:
        self._store.erasure.advance(request, "done")
        self._daemon.announcer.event("unlearnt", "info", request.answer)
        log.info("unlearnt %(samples)d samples", request.answer)

    def _reply(self, request: Request) -> None:
        if "reply" in request.asked:
            asked = asker(request.asked["reply"])
            reply(self._daemon.outbox, self._daemon.config.topics, asked, request.answer)


def _has_unlearnt(predictor: Predictor, plan: dict[str, Any]) -> bool:
    """Its readout has unlearnt the samples, or never learnt one."""
    first = plan["first"]
    return first is None or predictor.cursor >= plan["mark"] or predictor.cursor < first
