"""Which labels train blocks: wrong ones seldom, right ones nearly always."""

import numpy as np
import pytest
from numpy.typing import NDArray
from support.datasets import Digits

from edgecc.plan.plan import Plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input
from edgecc.training.dataset import Rows
from edgecc.training.label_filter import plausible
from edgecc.trunk.trunk import Trunk

SPEC = Input("image", (1, 8, 8))


@pytest.fixture(scope="module")
def stem() -> Trunk:
    return stem_trunk(Plan(16, 3, (), 16, 64, {}), SPEC, 0)


def kept(stem: Trunk, images: NDArray[np.uint8], given: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each digit would be drawn, every twentieth being held out."""
    held = np.arange(len(given)) % 20 == 0
    rows = Rows(
        read=lambda position: images[position], classes=[str(k) for k in range(10)],
        targets=given, held=held, weights=np.ones(10))
    positions = plausible(stem, rows, np.random.default_rng(0))
    assert not held[positions].any()
    return np.isin(np.arange(len(given)), positions)[~held]


def flipped(labels: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    draw = np.random.default_rng(1)
    wrong = draw.random(len(labels)) < share
    return np.where(wrong, (labels + draw.integers(1, 10, len(labels))) % 10, labels)


def test_right_labels_are_drawn(stem: Trunk, digits: Digits) -> None:
    assert kept(stem, *digits).all()


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
def test_wrong_labels_are_seldom_drawn_and_right_ones_still_are(
    stem: Trunk, digits: Digits, share: float
) -> None:
    images, labels = digits
    given = flipped(labels, share)
    drawn, wrong = kept(stem, images, given), np.delete(given != labels, np.s_[::20])
    print(f"{share}: {drawn[~wrong].mean():.3f} of right, {drawn[wrong].mean():.3f} of wrong")
    assert drawn[~wrong].mean() > 0.9
    assert drawn[wrong].mean() < 0.5


def test_a_rare_class_is_drawn(stem: Trunk, digits: Digits) -> None:
    images, labels = digits
    some = np.concatenate([np.flatnonzero(labels != 8), np.flatnonzero(labels == 8)[:8]])
    drawn = kept(stem, images[some], labels[some])
    assert drawn[np.delete(labels[some] == 8, np.s_[::20])].all()


def test_labels_that_nothing_is_to_be_learnt_from_are_all_drawn(
    stem: Trunk, digits: Digits
) -> None:
    images, labels = digits
    assert kept(stem, images, np.random.default_rng(2).permutation(labels)).mean() > 0.95
