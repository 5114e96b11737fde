"""A generation that an operator wants is tried in shadow first: it learns the log beside what
serves, both answer the held-out samples without having learnt them, and it serves if it is not
worse, or by force. Whatever stops a trial, what serves goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecc.checkpoint.manifest import Manifest
from edgecc.errors import Corrupt, EdgeccError, MessageError
from edgecc.learn.readout import scores
from edgecc.mqtt.reply import refuse, reply
from edgecc.protocol.messages import Command
from edgecc.serving.predictor import Predictor, penalty

if TYPE_CHECKING:
    from edgecc.daemon.daemon import Daemon

log = logging.getLogger(__name__)

JUDGES = 1000  # held-out samples that judge at most
_SLICE = 32  # samples a turn, so that none takes long

Whole = NDArray[np.int16]  # features, whole numbers up to 2¹⁴


@dataclass
class Wanted:
    """What is tried, for whom, and how it gets its place among the generations."""

    command: Command
    candidate: Predictor
    adopt: Callable[[], Manifest]
    about: dict[str, Any]  # what the answer says of it beside the figures

    @property
    def forced(self) -> bool:
        return self.command.args.get("force") is True


@dataclass
class Held:
    """Features of the held-out samples, by row, as two predictors see them."""

    serving: Predictor | None
    features: dict[int, tuple[Whole, Whole]] = field(default_factory=dict)


class Trial:
    """At most one at a time."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._wanted: Wanted | None = None
        self._held = Held(None)

    @property
    def busy(self) -> bool:
        return self._wanted is not None

    def check_free(self) -> None:
        """MessageError while something else is about to change what serves."""
        if self._daemon.forgetting.busy:
            raise MessageError("samples are being unlearnt; ask again in a moment")
        if self.busy or self._daemon.serving.successor is not None:
            raise MessageError("a new generation is about to serve; ask again in a moment")

    def begin(self, wanted: Wanted) -> None:
        """Its command is answered when it is over."""
        self.check_free()
        self._wanted, self._held = wanted, Held(self._daemon.serving.predictor)
        self._daemon.serving.candidate = wanted.candidate

    def step(self) -> None:
        """Go on a little; in every turn, before anything of a request to unlearn is done."""
        wanted, daemon = self._wanted, self._daemon
        if wanted is None:
            return
        try:
            if daemon.forgetting.busy:
                raise MessageError("samples are being unlearnt; ask again in a moment")
            if not daemon.serving.behind and self._all_seen(wanted):
                self._decide(wanted)
                self._end()
        except EdgeccError as error:
            self._end()
            refuse(daemon.outbox, daemon.config.topics, wanted.command, error)

    def interrupt(self) -> None:
        """The node goes on from its log: what was under way is over, and its command answered."""
        if self._wanted is not None:
            command = self._wanted.command
            self._end()
            refuse(self._daemon.outbox, self._daemon.config.topics, command,
                   MessageError("the node began anew from its log; ask again"))

    def _end(self) -> None:
        self._wanted = self._daemon.serving.candidate = None
        self._held = Held(None)

    # --- the held-out samples ---

    def _all_seen(self, wanted: Wanted) -> bool:
        """True once both have seen every sample that is held out now; some more otherwise."""
        daemon = self._daemon
        if self._held.serving is not daemon.serving.predictor:  # a sensor's was scaled anew
            self._held = Held(daemon.serving.predictor)
        serving, known = self._held.serving or wanted.candidate, self._held.features
        missing = [row for row, _ in daemon.store.held_out(JUDGES) if row not in known]
        for row in missing[:_SLICE]:
            packed = daemon.store.payload(row)
            assert packed is not None, "nothing is evicted during a trial"
            x = daemon.config.input_spec.unpack(packed)
            known[row] = (serving.features(x).astype(np.int16),
                          wanted.candidate.features(x).astype(np.int16))
        return not missing

    def _figures(self, wanted: Wanted) -> dict[str, Any]:
        """The share of held-out samples that each gets right; None where there is none."""
        rows = self._daemon.store.held_out(JUDGES)
        if not rows:
            return {"held_out": None, "held_out_serving": None, "held_rows": 0}
        seen, labels = [self._held.features[row] for row, _ in rows], [label for _, label in rows]
        serving = self._held.serving
        return {
            "held_out": accuracy(wanted.candidate, [mine for _, mine in seen], labels),
            "held_out_serving": None if serving is None else accuracy(
                serving, [its for its, _ in seen], labels),
            "held_rows": len(rows),
        }

    # --- the verdict ---

    def _decide(self, wanted: Wanted) -> None:
        """Swap or not, say so in an event, answer."""
        daemon, found = self._daemon, self._figures(wanted)
        serving, its = found["held_out_serving"], found["held_out"]
        swaps = wanted.forced or serving is None or its >= serving
        answer = wanted.about | found | {"swapped": swaps, "forced": wanted.forced}
        if swaps:
            manifest = wanted.adopt()
            answer |= {"generation": manifest.number, "digest": manifest.digest}
            daemon.orders.abandon(manifest.growth)
        with daemon.store.transaction():
            if swaps:
                daemon.serving.set_next(manifest.number)
            daemon.announcer.event(
                "trial", "info" if swaps else "warning", {"asked": wanted.command.verb} | answer)
        if swaps:
            daemon.serving.take_turn(wanted.candidate, manifest)
        log.info("%s: held-out %s against %s, swapped: %s",
                 wanted.command.verb, its, serving, swaps)
        reply(daemon.outbox, daemon.config.topics, wanted.command, answer)


def accuracy(predictor: Predictor, features: list[Whole], labels: list[str]) -> float:
    """The share of samples it gets right, which it has learnt, once it has not.

    Its sums are whole numbers, so they are the same to the bit again afterwards.
    """
    readout, held = predictor.readout, np.stack(features).astype(np.float32)
    for f, label in zip(held, labels, strict=True):
        readout.unlearn(f, label)
    try:
        weights = readout.weights(penalty(predictor.generation.manifest, readout))
    except np.linalg.LinAlgError as error:
        raise Corrupt(f"its readout cannot be solved: {error}") from error
    finally:
        for f, label in zip(held, labels, strict=True):
            readout.learn(f, label)
    if not np.isfinite(weights).all():
        raise Corrupt("its readout's weights are not finite")
    best = scores(weights, held).argmax(axis=1)
    named = [readout.classes[k] == label for k, label in zip(best, labels, strict=True)]
    return float(np.mean(named))
