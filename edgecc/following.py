"""A readout follows the log: label by label, over a restart, and past what was unlearnt."""

import logging
from pathlib import Path

from edgecc import known
from edgecc.errors import Corrupt
from edgecc.learn.readout import Features, Readout
from edgecc.predictor import Predictor
from edgecc.reader import LabelEvent, Reader
from edgecc.sample import Input

log = logging.getLogger(__name__)


def snapshot(state: Path, store: Reader) -> Path:
    """The saved live readout; by another name once the labels are numbered anew."""
    epoch = store.meta("epoch", 0)
    return state / (f"live-{epoch}.safetensors" if epoch else "live.safetensors")


def revive(state: Path, predictor: Predictor, store: Reader) -> None:
    """Go on from what the node knew last, and from nothing that was unlearnt since."""
    _restore_snapshot(state, predictor, store)
    forget(predictor, store)


def forget(predictor: Predictor, store: Reader) -> None:
    """Begin anew where this readout has learnt what was unlearnt, and erased, after it was saved.

    Its trunk then learns all that is stored.
    """
    if store.knows_forgotten(predictor.cursor):
        predictor.restore(Readout(predictor.readout.dim), 0)


def _restore_snapshot(state: Path, predictor: Predictor, store: Reader) -> None:
    """Take the saved live readout, where it is one of this generation."""
    path = snapshot(state, store)
    if not path.exists():
        return
    try:
        digest, readout, cursor = known.read(path, predictor.readout.dim)
    except Corrupt as error:
        log.warning("%s; replaying the log instead", error)
        return
    if digest == predictor.generation.manifest.digest and not store.knows_forgotten(cursor):
        predictor.restore(readout, cursor)


def learn_event(
    predictor: Predictor, event: LabelEvent, features: Features | None, store: Reader, spec: Input
) -> None:
    """One label of the log; features are computed again where they are not at hand."""
    if features is None:
        packed = store.payload(event.row)
        if packed is None:  # evicted: a saved readout has it
            predictor.cursor = event.seq
            return
        features = predictor.features(spec.unpack(packed))
    predictor.learn(features, event.label, event.previous, event.seq)
