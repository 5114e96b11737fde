"""The few-shot bench: nothing asked is taught, the measure is right where the answer is known."""

from pathlib import Path

import numpy as np
import pytest

from edgecc.bench import emoji
from edgecc.bench.emoji import STYLES, Emoji
from edgecc.bench.learning.few_shot import Stemmed, measure, split, through
from edgecc.errors import ConfigError, Corrupt
from edgecc.learn.readout import FEATURE_SCALE

LABELS = np.array(["cat", "dog", "tree"]).repeat(40)


def styled(shift: float) -> Stemmed:
    """Classes of one feature each; in the second style, part of it moves to the next feature."""
    draw = np.random.default_rng(0)
    classes = np.eye(6)[np.arange(len(LABELS)) // 40]
    noise = draw.uniform(0, 0.4, (2, len(LABELS), 6))
    second = (1 - shift) * classes + shift * np.roll(classes, 3, axis=1)
    pair = np.rint(FEATURE_SCALE * (np.stack([classes, second]) + noise))
    return Stemmed(dict(zip(STYLES, pair, strict=True)), milliseconds=0.0, model_bytes=0)


def data() -> Emoji:
    pictures = np.random.default_rng(1).integers(0, 256, (len(LABELS), 3, 96, 96), np.uint8)
    return Emoji(LABELS, dict.fromkeys(STYLES, pictures[:6].repeat(20, 0)))


def test_a_third_of_every_class_is_asked_and_never_taught() -> None:
    taught, asked = split(data())
    assert not set(taught) & set(asked)
    assert len(taught) + len(asked) == len(LABELS)
    assert {label: int(np.sum(LABELS[asked] == label)) for label in set(LABELS)} == {
        "cat": 13, "dog": 13, "tree": 13}


def test_more_labels_help_and_a_second_style_is_learnt_without_losing_the_first() -> None:
    rows = measure(styled(1.0), LABELS, *split(data()), draws=3)
    assert list(rows) == ["1", "5", "20", "all"]
    assert rows["20"]["first"] > 0.95
    assert rows["20"]["second_before"] < 0.6
    assert rows["20"]["second"] > 0.9
    assert rows["20"]["first_after"] > 0.9


def test_without_a_shift_the_second_style_needs_no_labels() -> None:
    row = measure(styled(0.0), LABELS, *split(data()), draws=2)["20"]
    assert row["second_before"] == pytest.approx(row["first"], abs=0.08)


def test_pictures_go_through_the_stem_as_the_daemon_compiles_it() -> None:
    stemmed = through("patches", data())
    assert stemmed.features[STYLES[0]].shape == (120, 288)
    assert stemmed.milliseconds > 0
    np.testing.assert_array_equal(stemmed.features[STYLES[0]], stemmed.features[STYLES[1]])


def test_an_archive_of_another_digest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "emoji-datasource-google-16.0.0.tgz").write_bytes(b"not what npm has")
    with pytest.raises(Corrupt, match="SHA-512"):
        emoji.load(96, tmp_path)


def test_without_npm_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="apt install npm"):
        emoji.load(96, tmp_path)
