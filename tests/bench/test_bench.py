"""What benches measure with: streams, metrics, results on disk, simulated node, baselines."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.results import measured
from torch.nn.functional import cross_entropy

from edgecc.bench import metrics
from edgecc.bench.device import train
from edgecc.bench.learning.baselines import EndToEnd, LastLayer, MicroBatched, lda_weights, replayed
from edgecc.bench.learning.one_pass import one_megabyte
from edgecc.bench.learning.result_cache import Call, Results
from edgecc.bench.learning.simulated_node import Device, Kept
from edgecc.bench.streams import Stream, split
from edgecc.learn.blocks import Linear, PoolConv
from edgecc.learn.methods.supervised import Supervised
from edgecc.learn.readout import Readout
from edgecc.plan.plan import BlockSize, Plan
from edgecc.protocol.sample import Input
from edgecc.training.recipe import Recipe

DIGITS = Input("image", (1, 8, 8))
SMALL = Plan(8, 3, (BlockSize(16, 3, 1, 2), BlockSize(32, 0, 1, 1)), 32, 64, {})


@pytest.fixture(scope="module")
def digits() -> Stream:
    return split("digits", seed=0)


def device(*, room: int | None = None, **rest: object) -> Device:
    recipe = Recipe(**rest)  # type: ignore[arg-type]
    return Device(DIGITS, SMALL, recipe, first=10**9, room=room)


def taught(stream: Stream, *, room: int | None = None, **rest: object) -> Device:
    made = device(room=room, **rest)
    for x, target in zip(stream.images, stream.targets, strict=True):
        made.learn(x, int(target))
    return made


def test_classes_arrive_two_at_a_time_and_every_sample_once(digits: Stream) -> None:
    start = 0
    for group, end in zip(digits.groups, digits.ends, strict=True):
        assert set(digits.targets[start:end]) == set(group)
        start = end
    assert start == len(digits)
    assert len({x.tobytes() for x in digits.images}) > 0.99 * len(digits)
    other = split("digits", seed=1)
    assert other.groups != digits.groups
    assert sorted(sum(other.groups, ())) == list(range(10))


def test_one_megabyte_is_the_size_of_all_files_and_the_widest_that_fits() -> None:
    """After 60 samples sums have few digits, so that the widest fits."""
    result = one_megabyte(name="digits", seed=0, limit=60, filters=48, grid=12, waves=25, widest=38)
    assert 400_000 < sum(result["state"].values()) <= 10**6
    assert result["mixed"] == 38


def test_flips_are_as_many_as_asked_and_shuffling_keeps_the_counts(digits: Stream) -> None:
    wrong = digits.flipped(0.2, seed=0).targets != digits.targets
    assert 0.15 < wrong.mean() < 0.25
    shuffled = digits.shuffled(seed=0).targets
    assert (shuffled != digits.targets).mean() > 0.8
    assert (np.bincount(shuffled) == np.bincount(digits.targets)).all()


def test_metrics_of_a_matrix_worked_out_by_hand() -> None:
    figures = metrics.of_matrix([[0.9, 0.0, 0.0], [0.8, 0.7, 0.0], [0.6, 0.75, 0.9]])
    assert figures["acc"] == pytest.approx(0.75)
    assert figures["average_incremental"] == pytest.approx((0.9 + 0.75 + 0.75) / 3)
    assert figures["forgetting"] == pytest.approx(0.15)  # 0.3 of the first, 0 of the second
    assert figures["bwt"] == pytest.approx((-0.3 + 0.05) / 2)
    assert metrics.omega([0.9, 0.6], [0.9, 0.8]) == pytest.approx(0.875)
    assert metrics.kappa(0.5, [0.5, 0.5]) == 0.0
    assert metrics.kappa(1.0, [0.7, 0.3]) == 1.0


def test_a_result_is_measured_once_and_missing_ones_in_processes_of_their_own(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    wanted = {"some": [Call(measured, {"seed": seed, "log": str(log)}) for seed in (1, 2, 1)],
              "more": [Call(measured, {"seed": 3, "log": str(log)})]}
    for _ in range(2):
        results = Results(tmp_path).get(wanted)
        assert [one["accuracy"] for one in results["some"]] == [0.1, 0.2, 0.1]
        assert [one["accuracy"] for one in results["more"]] == [0.3]
    assert sorted(log.read_text().split()) == ["1", "2", "3"]
    Results(tmp_path).get({"other": [Call(measured, {"seed": 4, "log": str(log)})]})
    assert sorted(log.read_text().split()) == ["1", "2", "3", "4"]


def test_a_full_reservoir_stays_within_its_room_and_in_balance() -> None:
    kept = Kept(DIGITS, room=4000)
    generator = np.random.default_rng(0)
    for n in range(300):
        kept.add(generator.integers(0, 255, (1, 8, 8), np.uint8), n // 100, f"s-{n}")
        assert kept.bytes <= 4000
    counts = [len(kept.of_class[k]) for k in range(3)]
    assert min(counts) > 10
    assert max(counts) - min(counts) <= 2


def test_trained_blocks_are_judged_and_serve_and_shuffled_labels_teach_nothing(
    digits: Stream,
) -> None:
    ours = taught(digits)
    before = ours.accuracy(digits)
    ours.grow(replace(ours.recipe, epochs=20))
    assert len(ours.verdicts) == 2
    assert ours.accuracy(digits) > max(0.95, before - 0.01)
    assert ours.draws == pytest.approx(20 * 0.95 * len(digits), rel=0.02)
    assert min(ours.control(digits, seeds=1)["accuracies"]) > 0.8
    assert {name for name, size in ours.state().items() if size} == {
        "weights", "readout", "samples"}
    lost = taught(digits.shuffled(seed=0))
    lost.grow(replace(lost.recipe, epochs=2))
    assert lost.accuracy(digits) < 0.25


def test_a_growth_after_evictions_keeps_the_sums_of_the_stem_and_does_better(
    digits: Stream,
) -> None:
    ours = taught(digits, room=30_000)
    assert len(ours.kept) < len(digits) / 2
    before, stem = ours.accuracy(digits), ours.predictor.readout.copy()
    ours.grow(replace(ours.recipe, epochs=20))
    grown = ours.predictor.readout.prefix(stem.dim)
    grown.arrange(stem.classes)
    assert grown.A.tobytes() == stem.A.tobytes()
    assert grown.B.tobytes() == stem.B.tobytes()
    assert ours.accuracy(digits) > before
    accepted = [verdict for verdict in ours.verdicts if verdict["accepted"]]
    assert [verdict["gain"] > 2 * verdict["gain_error"] for verdict in accepted] == [True]


def test_a_growth_of_which_too_few_rows_judge_is_refused(digits: Stream) -> None:
    ours = taught(digits, room=12_000)
    before = ours.predictor.generation.manifest.digest
    ours.grow(replace(ours.recipe, epochs=5))
    assert ours.predictor.generation.manifest.digest == before
    assert 0 < ours.verdicts[0]["held_rows"] < 10


def test_nothing_that_evicted_rows_say_makes_shuffled_labels_teach(digits: Stream) -> None:
    lost = taught(digits.shuffled(seed=0), room=30_000)
    before = lost.accuracy(digits)
    lost.grow(replace(lost.recipe, epochs=5))
    assert lost.accuracy(digits) < max(0.25, before + 0.05)


def test_every_way_to_train_is_measured_and_the_local_one_takes_less_memory(
    tmp_path: Path,
) -> None:
    train.run(quick=True, json_path=tmp_path / "train.json")
    figures = json.loads((tmp_path / "train.json").read_text())["figures"]
    assert figures["contenders"].keys() == {"contextual", "on numpy", "backpropagation"}
    assert all(one["epoch_seconds"] > one["stem_seconds"] > 0 and one["peak_bytes"] > 0
               for one in figures["contenders"].values())
    assert figures["peak_fraction"] > 0
    assert 0 < figures["train_memory_ratio"] < 0.8
    assert figures["train_time_ratio"] > 0


def test_a_single_micro_batch_is_the_batch_and_of_several_each_has_its_own_statistics() -> None:
    weights = {}
    for kind, size in ((EndToEnd, 8), (MicroBatched, 8), (EndToEnd, 16), (MicroBatched, 16)):
        generator = torch.Generator().manual_seed(0)
        block = PoolConv(1, 2, 4, 3, norm="batch", generator=generator)
        network = kind([Supervised(block, classes=3, size=(8, 8))])
        x, y = torch.randn(size, 1, 8, 8, generator=generator), torch.arange(size) % 3
        network.sweep(x, y, rate=0.01)
        network.sweep(x, y, rate=0.01)
        weights[kind, size] = block.weights[0]
    torch.testing.assert_close(weights[EndToEnd, 8], weights[MicroBatched, 8])
    assert not torch.allclose(weights[EndToEnd, 16], weights[MicroBatched, 16], atol=1e-5)


def test_of_the_last_layer_only_the_scores_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    block = PoolConv(1, 2, 4, 3, norm="batch", generator=generator)
    network = LastLayer([Supervised(block, classes=3, size=(8, 8))])
    x, y = torch.randn(48, 1, 8, 8, generator=generator), torch.arange(48) % 3
    before = block.weights[0].clone()
    losses = [float(cross_entropy(network.sweep(x, y, rate=0.01)[-1], y)) for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(block.weights[0], before)


def test_end_to_end_moves_the_first_block_against_the_whole_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    first = PoolConv(1, 2, 4, 3, norm="batch", generator=generator)
    second = Linear(4 * 16, 8, norm="batch", generator=generator)
    methods = [Supervised(first, classes=3, size=(8, 8)),
               Supervised(second, classes=3, size=(4, 4))]
    network = EndToEnd(methods)
    x, y = torch.randn(48, 1, 8, 8, generator=generator), torch.arange(48) % 3
    before, losses = first.weights[0].clone(), []
    for _ in range(60):
        losses.append(float(cross_entropy(network.sweep(x, y, rate=0.01)[-1], y)))
    assert losses[-1] < 0.3 * losses[0]
    assert not torch.equal(before, first.weights[0])
    assert not first.weights[0].requires_grad


def test_without_replay_a_network_forgets_and_with_it_less(digits: Stream) -> None:
    recipe = Recipe(method="supervised")
    naive = replayed(digits, SMALL, recipe, room=0, draws=1)["accuracy"]
    again = replayed(digits, SMALL, recipe, room=500, draws=5)["accuracy"]
    assert naive < 0.65  # 0.45 to 0.57 over three seeds, 0.75 to 0.80 with replay
    assert again > naive + 0.15


def test_streaming_lda_tells_two_gaussians_apart_whatever_their_counts() -> None:
    generator = np.random.default_rng(0)
    readout = Readout(2)
    for n in range(400):
        label = "rare" if n % 10 == 0 else "common"
        centre = (300, 100) if label == "rare" else (100, 100)
        readout.learn(np.rint(generator.normal(centre, 30)), label)
    weights = lda_weights(readout)
    values = np.array([1.0, 195.0, 100.0]) @ weights.T
    assert readout.classes[int(values.argmax())] == "common"
    values = np.array([1.0, 205.0, 100.0]) @ weights.T
    assert readout.classes[int(values.argmax())] == "rare"
