"""What a node knows of samples that have left its log: saved, moved between labels, grown from."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from nacl.signing import SigningKey
from sklearn.datasets import load_digits

from edgecc.checkpoint import generation, manifest
from edgecc.checkpoint.generation import Generation
from edgecc.checkpoint.readout_file import write_snapshot
from edgecc.errors import Corrupt
from edgecc.learn.readout import Readout
from edgecc.plan import planner
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.messages import Label
from edgecc.protocol.sample import Input, Sample
from edgecc.serving import catch_up
from edgecc.serving.catch_up import learn_event
from edgecc.serving.predictor import Predictor
from edgecc.store.growth_log import Growth
from edgecc.store.retention import evict
from edgecc.store.writer import Store
from edgecc.training.dataset import Rows
from edgecc.training.growth import Grower

SPEC = Input("image", (1, 8, 8))
PLAN = planner.plan(2**29, SPEC, max_payload=2**20, blocks=2)
LABELS = 600


@dataclass
class Log:
    """A store, the readout that follows it, and the generation that this is of."""

    store: Store
    live: Predictor
    parent: Generation
    folder: Path

    def label(self, *labels: tuple[str, str | None]) -> None:
        with self.store.transaction():
            for identity, label in labels:
                self.store.add_label(Label(identity, label, "t"))
        for event in self.store.labels_after(self.live.cursor, 10**6):
            learn_event(self.live, event, None, self.store, SPEC)

    def shrink(self, budget: int) -> int:
        with self.store.transaction():
            return evict(self.store, budget=budget, learnt=self.live.cursor, limit=10**6)

    def saved(self) -> Path:
        path = self.folder / f"known-{self.live.cursor}"
        write_snapshot(path, self.parent.manifest.digest, self.live.readout, self.live.cursor)
        return path

    def moved(self, path: Path, to: int) -> Readout:
        return catch_up.moved(path, self.parent, self.store, SPEC, to=to).copy()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """600 digits are labelled; then all but a quarter of them have left."""
    key, images = SigningKey.generate(), load_digits().images.astype(np.uint8) * 15
    trunk = stem_trunk(PLAN, SPEC, 0)
    (tmp_path / "generations").mkdir()
    about = generation.base_manifest("node", SPEC)
    generation.write(tmp_path / "stem", manifest=about, trunk=trunk, readout=Readout(trunk.dim))
    generation.adopt(tmp_path / "stem", tmp_path / "generations", key)
    path = tmp_path / "generations/000000"
    parent, again = (generation.load(path, [key.verify_key], SPEC) for _ in range(2))
    log = Log(Store(tmp_path / "log.sqlite"), Predictor(again), parent, tmp_path)
    with log.store.transaction():
        for n in range(LABELS + 100):
            log.store.record(Sample(f"d-{n}", "t", 0.0, None, images[n, None]))
    targets = load_digits().target
    log.label(*((f"d-{n}", str(targets[n])) for n in range(LABELS)))
    kept = sum(size for name, (_, size) in log.store.usage().items() if name)
    assert log.shrink(kept // 4 * 4 // 3) > LABELS / 2
    yield log
    log.store.close()


def same(one: Readout, other: Readout) -> bool:
    return (one.classes == other.classes and one.A.tobytes() == other.A.tobytes()
            and one.B.tobytes() == other.B.tobytes())


def stored(log: Log) -> list[str]:
    return [one["id"] for one in log.store.samples(10**6) if one["label"] is not None]


def test_a_readout_is_moved_back_to_the_bit_whatever_was_labelled_since(log: Log) -> None:
    at_once = log.saved()
    first, second, *_ = stored(log)
    log.label((first, "11"), ("d-650", "3"), (second, None), ("d-651", "12"), (first, "7"))
    later = log.saved()
    assert not same(log.moved(at_once, LABELS), log.moved(later, LABELS + 5))
    assert same(log.moved(at_once, LABELS), log.moved(later, LABELS))
    assert same(log.moved(at_once, LABELS + 5), log.moved(later, LABELS + 5))
    assert log.moved(later, LABELS).counts.sum() == LABELS


def test_a_readout_of_another_generation_or_a_damaged_one_is_refused(log: Log) -> None:
    path = log.folder / "known"
    write_snapshot(path, "another", log.live.readout, LABELS)
    with pytest.raises(Corrupt, match="another"):
        log.moved(path, LABELS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Corrupt, match="known"):
        log.moved(path, LABELS)


def grower(log: Log, sums: Readout, folder: str) -> Grower:
    (log.folder / folder).mkdir()
    growth = Growth(1, LABELS, {"epochs": 5, "seed": 0})
    return Grower(growth, log.parent, Rows.at(log.store, SPEC, LABELS), plan=PLAN,
                  folder=log.folder / folder, report=lambda _: None, sums=sums)


def test_a_growth_after_evictions_keeps_the_sums_of_its_stem_whenever_it_starts(log: Log) -> None:
    exact = log.live.readout.copy()
    at_once = grower(log, log.moved(log.saved(), LABELS), "at once")
    log.label(("d-650", "3"), (stored(log)[0], "5"))
    later = grower(log, log.moved(log.saved(), LABELS), "later")
    readouts = [one.evaluator.evaluate(one.grown()).readout for one in (at_once, later)]
    assert same(readouts[0].copy(), readouts[1].copy())
    assert readouts[0].dim > exact.dim
    exact.arrange(readouts[0].classes)
    assert same(readouts[0].prefix(exact.dim), exact)
    assert np.linalg.eigvalsh(readouts[0].A).min() >= -readouts[0].dim


def test_a_growth_keeps_another_node_s_samples_and_says_so(log: Log) -> None:
    images = load_digits().images.astype(np.uint8) * 15
    theirs = Readout(log.parent.readout.dim)
    for n in range(1000, 1100):
        theirs.learn(log.live.features(images[n, None]), "theirs")
    log.live.readout.merge(theirs)
    exact = log.live.readout.copy()
    growing = grower(log, log.moved(log.saved(), LABELS), "merged")
    about = replace(log.parent.manifest, others=["their key"])
    growing.parent = replace(log.parent, manifest=about)
    trunk = growing.grown()
    evaluation = growing.evaluator.evaluate(trunk)
    exact.arrange(evaluation.readout.classes)
    assert same(evaluation.readout.prefix(exact.dim), exact)
    assert evaluation.readout.counts[evaluation.readout.classes.index("theirs")] == 100
    growing._write(trunk, evaluation.readout, evaluation.answers, {})
    written = generation.read_manifest(log.folder / "merged" / "candidate")
    assert manifest.parse(written).others == ["their key"]


def test_a_stem_whose_sums_are_kept_is_not_calibrated_anew(log: Log) -> None:
    sums = log.moved(log.saved(), LABELS)
    int8 = replace(log.parent.trunk, ranges=((0.0, 1.0), (0.0, 2.0)))
    for trunk in (int8, log.parent.trunk):
        growing = grower(log, sums, f"{trunk.ranges is None}")
        growing.parent = replace(log.parent, trunk=trunk)
        assert growing.calibrated_stem().ranges == trunk.ranges
        growing.sums = None
        assert growing.calibrated_stem().ranges not in (None, int8.ranges)
