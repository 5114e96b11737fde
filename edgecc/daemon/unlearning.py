"""Unlearning, one request at a time: asked → flagged → erased → (deep: scrubbed → rolling) → done.

Each step is one transaction that can be done again, so a request ends whatever is killed and when.
Once it is answered, nothing serves the labels of its samples, trains on them or takes them again.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edgecc.checkpoint.manifest import Manifest
from edgecc.daemon.growths import Growths
from edgecc.daemon.node import Node
from edgecc.errors import StoreError
from edgecc.plan.schedule import open_growth
from edgecc.protocol.decode import id_of, source_of
from edgecc.protocol.messages import Command
from edgecc.protocol.selection import Selection, parse
from edgecc.serving.influence import Influence
from edgecc.serving.predictor import Predictor
from edgecc.store import meta
from edgecc.store.requests import Answer, Regrown, Request, Traces

log = logging.getLogger(__name__)

_PREVIEW = -1  # number of a request that is only looked at
REWRITE_AT_MOST = 256 * 2**20  # bytes of a log that is rewritten while the node waits


class Unlearning:
    def __init__(
        self, node: Node, growths: Growths, *, drop_pushed: Callable[[], None],
        offer: Callable[[], None],
    ) -> None:
        """drop_pushed: deletes what operators have staged; offer: publishes the generations."""
        self._node, self._growths = node, growths
        self._store, self._serving, self._generations = node.store, node.serving, node.generations
        self._drop_pushed, self._offer = drop_pushed, offer
        self._influence = Influence(
            node.store, node.generations, sensor=node.config.input.kind == "sensor")
        self._rewritten = 0  # newest request for which the log was rewritten

    def answer(self, command: Command) -> dict[str, Any] | None:
        """To `command/unlearn`: a preview, or what was answered before; None until it is done."""
        chosen = parse(command.args)
        if command.args.get("preview"):
            return self._preview(chosen)
        answer = self._store.requests.answer_to(command.id) if command.id else None
        return None if answer is None else answer.to_json()

    def step(self) -> None:
        """Go on as far as possible now."""
        steps: dict[str, Callable[[Request], bool]] = {
            "asked": self._flag, "flagged": self._erase, "erased": self._scrub,
            "scrubbed": self._roll_back, "rolling": self._regrow,
        }
        while (request := self._store.requests.current()) and steps[request.phase](request):
            pass

    def _preview(self, chosen: Selection) -> dict[str, Any]:
        with self._store.transaction(keep=False):
            answer, traces = self._choose(_PREVIEW, chosen)
        if not chosen.deep:
            return answer.to_json()
        return answer.to_json() | {"removed": sorted(self._influence.touched(traces))}

    def _flag(self, request: Request) -> bool:
        """Choose the samples, retract their labels, stop what trains on them."""
        with self._store.transaction():
            before = self._store.last_label()
            answer, traces = self._choose(request.number, request.chosen)
            for seq in range(before + 1, traces.mark + 1):
                open_growth(self._store, self._node.config, seq)
            restarted = self._restart_growths(traces)
            self._cancel_successor(traces)
            self._store.requests.advance(replace(
                request, phase="flagged", traces=traces,
                answer=replace(answer, growths_restarted=sorted(restarted))))
        return True

    def _choose(self, number: int, chosen: Selection) -> tuple[Answer, Traces]:
        """Flag the samples: how many there are, and where they have left traces."""
        erasure = self._store.erasure
        quarantined = self._quarantined(chosen)
        erasure.drop_quarantined(quarantined)
        answer = erasure.flag(number, chosen)
        if chosen.ids:  # a source may send again, this message may not
            erasure.keep_out(quarantined.values())
        traces = replace(
            self._influence.of(number, deep=chosen.deep),
            learnt=bool(answer.evicted), rewrite=bool(quarantined))
        return replace(
            answer, quarantined=len(quarantined), serving=self._serving.number,
            unknown=[one for one in answer.unknown if one not in quarantined.values()],
            generations=self._influence.uses(number, traces)), traces

    def _quarantined(self, chosen: Selection) -> dict[int, str]:
        """Ids of chosen messages that could not be understood, by number in quarantine."""
        topics, identities = self._node.config.topics, dict[int, str]()
        for seq, ts, message in self._store.quarantine_messages():
            levels = topics.levels(message.topic)
            identity = id_of(message, levels)
            if chosen.has(identity, source_of(levels), ts):
                identities[seq] = identity
        return identities

    def _restart_growths(self, traces: Traces) -> set[int]:
        """Delete what open growths have done on these samples, before their labels are retracted.

        With `deep`, also what started from a generation that will be removed. Returns the growths
        that were under way.
        """
        first, parents = traces.first, self._growths.parents
        if first is None and traces.scaled is None:
            return set()
        numbers = {number for number, reached in self._growths.reached.items()
                   if first is not None and reached >= first}
        if traces.deep:
            touched = self._influence.touched(traces)
            numbers |= {number for number, parent in parents.items() if parent in touched}
        self._growths.restart(numbers)
        self._store.growths.restart(numbers)
        return numbers & set(parents)

    def _cancel_successor(self, traces: Traces) -> None:
        """A trunk grown on these samples that has not served yet never will; it is grown again."""
        first, successor = traces.first, self._serving.successor
        growth = 0 if successor is None else successor.manifest.growth
        if growth and first is not None and self._store.growths.cursor(growth) >= first:
            self._store.growths.restart([growth])
            self._serving.cancel_next()

    def _erase(self, request: Request) -> bool:
        """Erase them once every readout has unlearnt them."""
        node, store, traces = self._node, self._store, request.traces
        readouts = [p for p in (self._serving.predictor, self._serving.successor) if p]
        if not all(_has_unlearnt(predictor, traces) for predictor in readouts):
            return False
        for predictor in readouts:
            predictor.arrange(store.classes(predictor.cursor))
        self._serving.snapshot()  # the log erases what it would have to unlearn again
        with store.transaction():
            emptied = store.erasure.newest_of(request.number)
            rewrite = traces.rewrite or bool(store.meta(meta.MOVED))
            store.erasure.erase(request.number, mark=traces.mark, deep=traces.deep)
            for source in emptied:
                node.outbox.put(node.config.topics.out(source, "state"), b"", retain=True)
            store.requests.advance(replace(
                request, phase="erased", traces=replace(traces, rewrite=rewrite)))
        return True

    def _scrub(self, request: Request) -> bool:
        """Leave nothing in the files; without `deep` that is the end."""
        traces = request.traces
        self._drop_pushed()
        if traces.rewrite:
            self._rewrite(request.number)
        if not self._store.scrub():
            return False
        copies = traces.rewrite and self._rewritten != request.number
        request = replace(request, answer=replace(request.answer, copies_possible=copies))
        deep = traces.deep and (traces.first is not None or traces.scaled is not None)
        with self._store.transaction():
            if deep:
                self._store.requests.advance(replace(request, phase="scrubbed"))
            else:
                self._finish(request)
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

    def _roll_back(self, request: Request) -> bool:
        """With `deep`: serve a generation that never knew them, or new stems."""
        if self._serving.successor is not None:
            return False
        base, stems = self._base(request.traces), list[Manifest]()
        if base is None or request.traces.scaled is not None:
            stems = self._node.stems.following(base)
            base = stems[-1] if stems else base
        keep = {one.number for one in (*self._influence.untouched(request.traces), *stems)}
        traces = replace(
            request.traces, base=None if base is None else base.number,
            removed=tuple(n for n in self._generations.numbers() if n not in keep))
        if base is None:
            self._serving.stop()
        request = replace(request, phase="rolling", traces=traces)
        if base is None or not (traces.learnt or base.number != self._serving.number):
            with self._store.transaction():
                self._store.requests.advance(request)
            return True
        self._serving.drop_snapshot()
        lost = self._store.evicted_after(base.cursor)
        with self._store.transaction():
            self._store.requests.advance(
                replace(request, answer=replace(request.answer, not_relearnt=lost)))
            self._serving.set_next(base.number)
        self._serving.roll_to(base.number)
        return True

    def _base(self, traces: Traces) -> Manifest | None:
        """What serves, if it never knew the samples; else the newest generation before them."""
        abandoned, number = self._store.growths.rolled_back(), self._serving.number
        clean = sorted(
            self._influence.untouched(traces),
            key=lambda one: (one.number == number, one.growth not in abandoned, one.number))
        for manifest in reversed(clean):
            if loaded := self._generations.usable(manifest.number):
                return loaded.manifest
        return None

    def _regrow(self, request: Request) -> bool:
        """With `deep`: once that serves, delete the other generations and grow again."""
        store, serving, base = self._store, self._serving, request.traces.base
        if serving.successor is not None:
            return False
        if base is not None and serving.next_number == base:  # it was damaged during a stop
            with store.transaction():
                serving.set_next(None)
                store.requests.advance(replace(request, phase="scrubbed"))
            return True
        if base is None:
            serving.stop()
        serving.catch_up_fully()
        self._generations.remove(request.traces.removed)
        with store.transaction():
            again = self._renumber(request)
            regrown = Regrown(base, request.traces.removed, again)
            request = replace(request, answer=replace(request.answer, regrown=regrown))
            self._finish(request)
        serving.drop_snapshot(old=True)
        store.scrub()
        self._offer()
        self._reply(request)
        return True

    def _renumber(self, request: Request) -> list[int]:
        """Make the log as it were without the samples; the growths that grow again."""
        node, store, traces = self._node, self._store, request.traces
        first = store.last_label() + 1 if traces.first is None else traces.first
        store.erasure.compact(request.number, first)
        predictor, trunk = self._serving.predictor, 0
        if predictor is not None:
            trunk = predictor.manifest.growth
            predictor.renumber(store.last_label())
        again = store.growths.repeat(trunk, 0 if traces.scaled else first)
        store.set_meta(meta.RENUMBERED, store.meta(meta.RENUMBERED) + 1)
        self._generations.note_removed(traces.removed)
        self._serving.set_serving(traces.base)
        self._serving.write_snapshot()  # of the new numbers; read only once they are committed
        for number in traces.removed:
            node.outbox.put(node.config.topics.manifest(number), b"", retain=True)
        return again

    def _finish(self, request: Request) -> None:
        self._store.requests.finish(request)
        self._node.events.record("unlearnt", "info", request.answer.to_json())
        log.info("unlearnt %d samples", request.answer.samples)

    def _reply(self, request: Request) -> None:
        if request.asker is not None:
            self._node.reply(request.asker, request.answer.to_json())


def _has_unlearnt(predictor: Predictor, traces: Traces) -> bool:
    """True if its readout has unlearnt the samples, or never learnt one."""
    first = traces.first
    return first is None or predictor.cursor >= traces.mark or predictor.cursor < first
