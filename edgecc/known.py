"""What a node knows at a label, by readout: saved to go on from, and moved to another label.

Sums are exact, so a readout saved at one label is that of another once the labels in between are
learnt, or unlearnt, from the log: the same to the bit, whichever it was saved at.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edgecc import generation, sums
from edgecc.errors import Corrupt
from edgecc.generation import Generation
from edgecc.learn.readout import Readout
from edgecc.predictor import Predictor
from edgecc.reader import LabelEvent, Reader
from edgecc.sample import Input


def write(path: Path, digest: str, readout: Readout, cursor: int) -> None:
    """`readout` of the generation with this digest, at label `cursor`; durable, or as before."""
    about = {
        "generation": digest, "cursor": str(cursor), "classes": json.dumps(readout.classes),
    }
    data = save(sums.tensors_of(readout, packed=False), metadata=about)
    generation.replace_file(path, data)


def read(path: Path, dim: int) -> tuple[str, Readout, int]:
    """What `write` was given, over `dim` features; Corrupt where it cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        readout = sums.readout_from(tensors, json.loads(about["classes"]), dim)
        return about["generation"], readout, int(about["cursor"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{path}: {error}") from error


def moved(path: Path, parent: Generation, store: Reader, spec: Input, *, to: int) -> Readout:
    """What the readout in `path`, of `parent`, knows at label `to`, earlier or later."""
    digest, readout, cursor = read(path, parent.readout.dim)
    if digest != parent.manifest.digest:
        raise Corrupt(f"{path} is of generation {digest[:16]}…, not {parent.manifest.digest[:16]}…")
    features = Predictor(parent).features
    for event in _between(store, cursor, to):
        packed = store.payload(event.row)
        if packed is None:  # evicted before: nothing knows it by these features
            continue
        f = features(spec.unpack(packed))
        before, after = (event.previous, event.label)[:: 1 if to > cursor else -1]
        if before is not None:
            readout.unlearn(f, before)
        if after is not None:
            readout.learn(f, after)
    readout.arrange(store.classes(to))
    return readout


def _between(store: Reader, one: int, other: int) -> Iterator[LabelEvent]:
    first, last = sorted((one, other))
    yield from (event for event in store.labels_after(first, last - first) if event.seq <= last)
