"""The control beside every accuracy: the same network with blocks that were never trained.

Same stem, widths, data-calibrated normalisation, readout dimension, search for alpha and rows.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecc.checkpoint import generation
from edgecc.checkpoint.keyring import Keys
from edgecc.config.schema import Config
from edgecc.learn.readout import scores, to_integers
from edgecc.plan.plan import Plan
from edgecc.store.growth_log import Growth
from edgecc.store.reader import Reader
from edgecc.training.dataset import Rows
from edgecc.training.growth import Grower
from edgecc.trunk.interpreter import Interpreter

SEEDS = (0, 1, 2)


def random_frozen(
    config: Config, number: int, images: NDArray[Any], labels: list[str],
    report: Callable[[float], None],
) -> float:
    """Best accuracy of three seeds on `images` (N, C, H, W), on the rows of generation `number`."""
    folder = config.state.generations / generation.name_of(number)
    served = generation.load(folder, Keys(config.state).trusted, config.input)
    store = Reader(config.state.log)
    rows = Rows.at(store, config.input, served.manifest.cursor)
    accuracies = []
    for seed in SEEDS:
        accuracies.append(_one(served, rows, seed, images, labels))
        report(accuracies[-1])
    return max(accuracies)


def _one(
    served: generation.Generation, rows: Rows, seed: int, images: NDArray[Any], labels: list[str]
) -> float:
    manifest = served.manifest
    plan = Plan.restored(manifest.plan)
    untrained = Growth(manifest.growth, manifest.cursor, {"epochs": 0, "seed": seed})
    with tempfile.TemporaryDirectory() as work:
        grower = Grower(
            untrained, served, rows, plan=plan, folder=Path(work), report=lambda _: None
        )
        trunk = grower.grown().first(len(manifest.blocks) - 1)
        evaluation = grower.evaluator.evaluate(trunk)
    run = Interpreter(trunk.compile()).run
    weights = evaluation.readout.weights(evaluation.answers.alpha)
    features = np.array([to_integers(run(trunk.scale(x))) for x in images])
    named = np.array(rows.classes)[scores(weights, features).argmax(axis=1)]
    return float(np.mean(named == np.array(labels)))
