"""A generation that an operator wants is tried beside what serves: both learn the log, and both
answer the held-out samples without having learnt them. It serves if it is not worse, or by force.
Whatever stops a trial, what serves goes on.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecc.checkpoint.manifest import Manifest
from edgecc.daemon.growths import Growths
from edgecc.daemon.node import Node
from edgecc.errors import Corrupt, EdgeccError, MessageError
from edgecc.learn.readout import scores
from edgecc.protocol.messages import Command
from edgecc.serving.predictor import Predictor, ridge_strength

log = logging.getLogger(__name__)

VALIDATION = 1000  # held-out samples at most that both answer
_SLICE = 32  # samples a turn, so that none takes long

Features = NDArray[np.int16]  # integers up to 2¹⁴


@dataclass(frozen=True)
class Wanted:
    """What is tried, for whom, and how it becomes one of the node's generations."""

    command: Command
    candidate: Predictor
    adopt: Callable[[], Manifest]
    about: dict[str, Any]  # put into the answer

    @property
    def forced(self) -> bool:
        return self.command.args.get("force") is True


@dataclass(frozen=True)
class Result:
    """The share of held-out samples that each gets right; None without any."""

    held_out: float | None
    held_out_serving: float | None
    held_rows: int

    @property
    def better(self) -> bool:
        """True unless the candidate is worse than what serves."""
        if self.held_out_serving is None:
            return True
        return self.held_out is not None and self.held_out >= self.held_out_serving


class Trial:
    """At most one at a time."""

    def __init__(self, node: Node, growths: Growths) -> None:
        self._node, self._growths = node, growths
        self._store, self._serving = node.store, node.serving
        self._wanted: Wanted | None = None
        self._serves: Predictor | None = None  # beside the candidate
        self._features: dict[int, tuple[Features, Features]] = {}  # of both, by held-out row

    def check_free(self) -> None:
        """MessageError while something else is about to change what serves."""
        self._node.check_not_unlearning()
        if self._serving.changing:
            raise MessageError("a new generation is about to serve; ask again in a moment")

    def begin(self, wanted: Wanted) -> None:
        """The command of `wanted` is answered when the trial is over."""
        self.check_free()
        self._wanted = wanted
        self._serving.try_out(wanted.candidate)

    def step(self) -> None:
        """Go on a little: in every turn, before any step of unlearning."""
        wanted = self._wanted
        if wanted is None:
            return
        try:
            self._node.check_not_unlearning()
            if not self._serving.lagging and self._all_seen(wanted):
                self._decide(wanted)
                self._end()
        except EdgeccError as error:
            self._fail(wanted, error)

    def interrupt(self) -> None:
        """End what is under way, and answer its command: the node restarts from its log."""
        if self._wanted is not None:
            self._fail(self._wanted, MessageError("the node restarted from its log; ask again"))

    def _fail(self, wanted: Wanted, error: EdgeccError) -> None:
        self._end()
        self._node.refuse(wanted.command, error)

    def _end(self) -> None:
        self._wanted, self._serves, self._features = None, None, {}
        self._serving.try_out(None)

    def _all_seen(self, wanted: Wanted) -> bool:
        """Show both some more held-out samples; True once they have seen all of them."""
        if self._serves is not self._serving.predictor:  # at first; or a sensor's, scaled again
            self._serves, self._features = self._serving.predictor, {}
        known, spec = self._features, self._node.config.input
        serving = self._serves or wanted.candidate
        missing = [row for row, _ in self._store.held_out(VALIDATION) if row not in known]
        for row in missing[:_SLICE]:
            packed = self._store.payload(row)
            assert packed is not None, "nothing is evicted during a trial"
            x = spec.unpack(packed)
            known[row] = (serving.features(x).astype(np.int16),
                          wanted.candidate.features(x).astype(np.int16))
        return not missing

    def _result(self, wanted: Wanted) -> Result:
        rows, serving = self._store.held_out(VALIDATION), self._serves
        if not rows:
            return Result(None, None, 0)
        labels = [label for _, label in rows]
        here, there = zip(*(self._features[row] for row, _ in rows), strict=True)
        return Result(
            held_out=accuracy(wanted.candidate, there, labels),
            held_out_serving=None if serving is None else accuracy(serving, here, labels),
            held_rows=len(rows))

    def _decide(self, wanted: Wanted) -> None:
        """Swap or not, record an event, answer."""
        result = self._result(wanted)
        swaps = wanted.forced or result.better
        answer = wanted.about | asdict(result) | {"swapped": swaps, "forced": wanted.forced}
        if swaps:
            manifest = wanted.adopt()
            answer |= {"generation": manifest.number, "digest": manifest.digest}
            self._growths.abandon(manifest.growth)
        with self._store.transaction():
            if swaps:
                self._serving.set_next(manifest.number)
            self._node.events.record(
                "trial", "info" if swaps else "warning", {"asked": wanted.command.verb} | answer)
        if swaps:
            self._serving.succeed(wanted.candidate, manifest)
        log.info("%s: held-out %s against %s, swapped: %s",
                 wanted.command.verb, result.held_out, result.held_out_serving, swaps)
        self._node.reply(wanted.command, answer)


def accuracy(predictor: Predictor, features: Sequence[Features], labels: list[str]) -> float:
    """The share of samples that it gets right while it has unlearnt them; it learns them again."""
    readout, held = predictor.readout, np.stack(features).astype(np.float32)
    for f, label in zip(held, labels, strict=True):
        readout.unlearn(f, label)
    try:
        weights = readout.weights(ridge_strength(predictor.manifest, readout))
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
