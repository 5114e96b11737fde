"""A readout follows the log: label by label, over a restart, and past what was unlearnt."""

import logging
from dataclasses import replace
from pathlib import Path

from edgecc.checkpoint.generation import Generation
from edgecc.checkpoint.readout_file import read_snapshot
from edgecc.config.state import State
from edgecc.errors import Corrupt
from edgecc.learn.readout import Features, Readout
from edgecc.protocol.sample import Input
from edgecc.serving.predictor import Predictor
from edgecc.store import meta
from edgecc.store.reader import LabelEvent, Reader

log = logging.getLogger(__name__)


def snapshot_path(state: State, store: Reader) -> Path:
    """Where the live readout is saved; it has another name once labels were renumbered."""
    return state.live_readout(store.meta(meta.RENUMBERED))


def resume(state: State, predictor: Predictor, store: Reader) -> None:
    """Go on from the live readout that was saved last, unless labels in it were unlearnt since."""
    path = snapshot_path(state, store)
    if path.exists():
        try:
            digest, readout, cursor = read_snapshot(path, predictor.readout.dim)
            if digest == predictor.manifest.digest and not store.knows_unlearnt(cursor):
                predictor.restore(readout, cursor)
        except Corrupt as error:
            log.warning("%s; replaying the log instead", error)
    restart_if_unlearnt(predictor, store)


def restart_if_unlearnt(predictor: Predictor, store: Reader) -> None:
    """Empty a readout that knows what was unlearnt since; it then learns all that is stored."""
    if store.knows_unlearnt(predictor.cursor):
        predictor.restore(Readout(predictor.readout.dim), 0)


def learn_event(
    predictor: Predictor, event: LabelEvent, features: Features | None, store: Reader, spec: Input
) -> None:
    """Learn one label of the log; features are computed again if they are not at hand."""
    if features is None:
        packed = store.payload(event.row)
        if packed is None:  # evicted: a saved readout has it, or none does
            predictor.skip(event.seq)
            return
        features = predictor.features(spec.unpack(packed))
    predictor.learn(features, event.label, event.previous, event.seq)


def moved(path: Path, parent: Generation, store: Reader, spec: Input, *, to: int) -> Readout:
    """The readout saved in `path`, of generation `parent`, as it is at a later or earlier label."""
    digest, readout, cursor = read_snapshot(path, parent.readout.dim)
    if digest != parent.manifest.digest:
        raise Corrupt(f"{path} is of generation {digest[:16]}…, not {parent.manifest.digest[:16]}…")
    predictor = Predictor(parent)
    predictor.restore(readout, cursor)
    first, last = sorted((cursor, to))
    for event in store.labels_after(first, last - first):
        if event.seq <= last:
            undone = replace(event, label=event.previous, previous=event.label)
            learn_event(predictor, event if to > cursor else undone, None, store, spec)
    readout.arrange(store.classes(to))
    return readout
