"""A predictor outside the daemon: from a pulled checkpoint's folder, or from this node's state."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecc.checkpoint import generation
from edgecc.checkpoint.keyring import Keys
from edgecc.checkpoint.pinned_keys import keys_for_folder
from edgecc.config.schema import Config
from edgecc.errors import CheckpointError
from edgecc.protocol import sample
from edgecc.protocol.sample import Input
from edgecc.serving.catch_up import learn_event, resume
from edgecc.serving.predictor import Prediction, Predictor
from edgecc.store import meta
from edgecc.store.reader import Reader


class Classifier:
    """Answers from one generation; needs no broker and no log, and learns nothing."""

    def __init__(self, predictor: Predictor) -> None:
        given = predictor.generation.manifest.node_input
        self.input = Input(given["kind"], tuple(given["shape"]))
        self.predictor = predictor
        predictor.refresh()

    @property
    def classes(self) -> list[str]:
        return list(self.predictor.readout.classes)

    def predict(self, x: NDArray[Any] | bytes) -> tuple[str | None, float]:
        """The most likely label of one sample and its probability, from 0 to 1.

        x: an image as (channels, height, width) or (height, width, channels) with pixels from 0 to
        255, a window of readings as (channels, time), or the bytes of a JPEG, PNG, npy or JSON
        array. Label None and 0.0 where no label has been learnt. MessageError where `x` does not
        fit `input.shape`.
        """
        answer = self.answer(x)
        return answer.label, answer.score

    def answer(self, x: NDArray[Any] | bytes) -> Prediction:
        """All that `predict` knows: the three most likely labels and the distance too."""
        fitted = sample.decode(x, None, self.input) if isinstance(x, bytes) else (
            sample.fit(np.asarray(x), self.input))
        return self.predictor.predict(self.predictor.features_of([fitted]), 0.0)[0]


def load(folder: Path | str, key: str | None = None) -> Classifier:
    """The classifier in a pulled checkpoint's folder, verified first.

    key: the public key, in hex, that must have signed it; else one kept beside `folder` by `edgecc
    checkpoint pull`. Corrupt, Incompatible or Untrusted where it does not pass.
    """
    folder = Path(folder)
    return Classifier(Predictor(generation.load(folder, keys_for_folder(folder, key))))


def live(config: Config) -> Classifier:
    """What this node answers now: its serving generation, and the log after its cursor."""
    state = config.state
    for what, path in (("state", state.log), ("key", state.key)):
        if not path.exists():
            raise CheckpointError(f"no {what} in {state}; give --checkpoint FOLDER")
    store = Reader(state.log)
    number = store.meta(meta.SERVING)
    if number is None:
        number = max(generation.numbers(state.generations), default=0)
    predictor = Predictor(generation.load(
        state.generations / generation.name_of(number), Keys(state).trusted, config.input))
    resume(state, predictor, store)
    while events := store.labels_after(predictor.cursor, 256):
        for event in events:
            learn_event(predictor, event, None, store, config.input)
    store.close()
    return Classifier(predictor)
