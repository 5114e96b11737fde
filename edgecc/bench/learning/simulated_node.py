"""What a node does with labelled samples, without the broker: predict, learn, keep, grow.

The same readout, growth, evaluation, int8 trunk and generation files as the daemon's; time does not
pass while a block grows, so that a figure depends on the stream and the seed alone.
"""

import hashlib
import shutil
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nacl.signing import SigningKey
from numpy.typing import NDArray

from edgecc.bench.streams import Stream
from edgecc.checkpoint import generation
from edgecc.learn.methods.base import Method
from edgecc.learn.network import Network
from edgecc.learn.readout import Features, Readout, scores, to_integers
from edgecc.plan.plan import Plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input, Sample
from edgecc.serving.predictor import Predictor, ridge_strength
from edgecc.store.growth_log import Growth
from edgecc.store.writer import HELD_OUT_IN
from edgecc.training.dataset import Rows
from edgecc.training.evaluation import Evaluation, evaluate
from edgecc.training.growth import Grower
from edgecc.training.recipe import Recipe
from edgecc.trunk.interpreter import Interpreter
from edgecc.trunk.trunk import Trunk

_SEED_KEY = bytes(range(32))  # signs the bench's own generations, which never leave it


@dataclass
class Kept:
    """Samples on disk: a class-balanced reservoir within `room` bytes, packed as the log does."""

    spec: Input
    room: int | None  # bytes; None keeps everything
    packed: list[bytes] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    order: list[bytes] = field(default_factory=list)  # hash of the id: who leaves first
    of_class: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    bytes: int = 0

    def __len__(self) -> int:
        return sum(len(positions) for positions in self.of_class.values())

    def add(self, x: NDArray[Any], target: int, identity: str) -> None:
        key = hashlib.sha256(identity.encode()).digest()[:16]
        self.packed.append(Sample(identity, "bench", 0.0, None, x).pack())
        self.targets.append(target)
        self.order.append(key)
        self.of_class[target].append(len(self.packed) - 1)
        self.bytes += len(self.packed[-1])
        while self.room is not None and self.bytes > self.room:
            self._evict()

    def _evict(self) -> None:
        """The largest class gives up the sample with the highest hash."""
        largest = max(self.of_class, key=lambda k: len(self.of_class[k]))
        leaving = max(self.of_class[largest], key=lambda position: self.order[position])
        self.of_class[largest].remove(leaving)
        self.bytes -= len(self.packed[leaving])
        self.packed[leaving] = b""

    def rows(self, seen: Readout) -> Rows:
        """What a growth may draw from; `seen` counts every sample of each class."""
        kept = [n for n, packed in enumerate(self.packed) if packed]
        targets = np.array([self.targets[n] for n in kept], np.int64)
        names = [int(name) for name in seen.classes]
        index = {name: k for k, name in enumerate(names)}
        counts = np.bincount([index[t] for t in targets], minlength=len(names))
        held = [int.from_bytes(self.order[n][:4], "big") % HELD_OUT_IN == 0 for n in kept]
        return Rows(
            read=lambda position: self.spec.unpack(self.packed[kept[position]]),
            classes=list(seen.classes), targets=np.array([index[t] for t in targets], np.int64),
            held=np.array(held), weights=seen.counts / np.maximum(counts, 1),
        )


class Device:
    """Grows at labels first·2^(r-1), like the daemon, on what it has kept."""

    def __init__(
        self, spec: Input, plan: Plan, recipe: Recipe, *, first: int, room: int | None = None
    ) -> None:
        self.spec, self.plan, self.recipe, self.first = spec, plan, recipe, first
        self.kept = Kept(spec, room)
        self.labels = self.draws = 0
        self.verdicts: list[dict[str, Any]] = []
        self._key = SigningKey(_SEED_KEY)
        self._work = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self._work)
        self._generations = self._work / "generations"
        self._generations.mkdir()
        self.predictor = self._stem()

    def learn(
        self, x: NDArray[Any], target: int, features: Features | None = None, *, keep: bool = True
    ) -> None:
        """One labelled sample (C, H, W) of the stream, its features where they are at hand."""
        predictor = self.predictor
        if features is None:
            features = predictor.features(x)
        predictor.learn(features, str(target), None, predictor.cursor + 1)
        if keep:
            self.kept.add(x, target, f"{self.recipe.seed}-{self.labels}")
        self.labels += 1

    @property
    def due(self) -> bool:
        ratio, rest = divmod(self.labels, self.first)
        return rest == 0 and ratio > 0 and ratio & (ratio - 1) == 0 and bool(self.plan.blocks)

    def grow(
        self, recipe: Recipe | None = None,
        network: Callable[[list[Method]], Network] | None = None,
    ) -> None:
        """Train blocks on what is kept, and serve them if they are better."""
        recipe = recipe or self.recipe
        number = len(self.verdicts) + 1
        rows = self.kept.rows(self.predictor.readout)
        growth = Growth(number, self.labels, asdict(recipe))
        grower = Grower(
            growth, self._live(), rows, plan=self.plan,
            folder=self._work / f"growth{number}", report=lambda _: None,
            sums=self.predictor.readout.copy() if len(self.kept) < self.labels else None,
            network=network or Network,
        )
        grower.folder.mkdir()
        self.draws += int(recipe.epochs * len(rows.training))
        for verdict in grower.run():
            self.verdicts.append(verdict)
            if verdict["accepted"]:
                self._serve(Path(verdict["candidate"]))

    def accuracies(self, stream: Stream) -> list[float]:
        """Accuracy on the test samples of each experience of `stream`, all classes competing."""
        self.predictor.refresh()
        right = self._named(stream.test_images) == stream.test_targets
        return [float(right[np.isin(stream.test_targets, group)].mean())
                for group in stream.groups]

    def accuracy(self, stream: Stream) -> float:
        self.predictor.refresh()
        return float(np.mean(self._named(stream.test_images) == stream.test_targets))

    def control(self, stream: Stream, *, seeds: int = 3) -> dict[str, Any]:
        """Test accuracies with blocks that were never trained, all else the same; and bytes."""
        accuracies, state = [], {}
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as work:
                rows = self.kept.rows(self.predictor.readout)
                recipe = asdict(self.recipe) | {"epochs": 0, "seed": seed}
                grower = Grower(
                    Growth(1, self.labels, recipe), self._live(), rows, plan=self.plan,
                    folder=Path(work),
                    report=lambda _: None,
                )
                trunk = grower.grown()
                evaluation = evaluate(trunk, rows, lambda _: None)
                accuracies.append(_accuracy(trunk, evaluation, rows, stream))
                state = self._bytes(trunk, evaluation.readout)
        return {"accuracies": accuracies, "state": state}

    def state(self) -> dict[str, int]:
        """Bytes of what is needed to go on: weights, readout, stored samples."""
        return self._bytes(self.predictor.generation.trunk, self.predictor.readout)

    def _bytes(self, trunk: Trunk, readout: Readout) -> dict[str, int]:
        folder = self._work / "state"
        generation.write(
            folder, manifest=self._live().manifest, trunk=trunk, readout=readout)
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        sums = sizes.pop("readout.safetensors")
        return {"weights": sum(sizes.values()), "readout": sums, "samples": self.kept.bytes}

    def _named(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        now = self.predictor
        features = np.array([now.features(x) for x in images])
        weights = now.readout.weights(ridge_strength(now.generation.manifest, now.readout))
        classes = np.array([int(name) for name in now.readout.classes])
        return np.asarray(classes[scores(weights, features).argmax(axis=1)])

    def _live(self) -> generation.Generation:
        return self.predictor.generation

    def _stem(self) -> Predictor:
        folder = self._work / "candidate"
        trunk = stem_trunk(self.plan, self.spec, self.recipe.seed, mirrored=self.recipe.mirror)
        manifest = generation.base_manifest("bench", self.spec, plan=self.plan.describe())
        generation.write(folder, manifest=manifest, trunk=trunk, readout=Readout(trunk.dim))
        return self._serve(folder)

    def _serve(self, folder: Path) -> Predictor:
        number = generation.adopt(folder, self._generations, self._key).number
        path = self._generations / generation.name_of(number)
        self.predictor = Predictor(generation.load(path, [self._key.verify_key], self.spec))
        return self.predictor


def _accuracy(trunk: Trunk, evaluation: Evaluation, rows: Rows, stream: Stream) -> float:
    """Test accuracy of the readout that `rows` gave this trunk."""
    run = Interpreter(trunk.compile()).run
    features = np.array([to_integers(run(trunk.scale(x))) for x in stream.test_images])
    named = scores(evaluation.readout.weights(evaluation.answers.alpha), features).argmax(axis=1)
    classes = np.array([int(name) for name in rows.classes])
    return float(np.mean(classes[named] == stream.test_targets))
