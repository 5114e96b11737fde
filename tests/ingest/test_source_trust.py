"""Sources are accused for what they say, not for what they see; and only for good."""

import numpy as np
import pytest

from edgecc.ingest.source_trust import SourceTrust

CLASSES = 10
HARD = np.array([0.05, 0.05, 0.1, 0.1, 0.3, 0.05, 0.4, 0.05, 0.1, 0.05])  # missed by a grown model


def follow(
    flips: dict[str, float], *, seed: int, labels: int = 6000
) -> tuple[SourceTrust, dict[str, int]]:
    """Sources in random turns before a model that learns; who is distrusted, after how many labels.

    `hard` only meets the classes that are missed most.
    """
    draw, names = np.random.default_rng(seed), list(flips)
    sources, accused = SourceTrust(tolerance=0.1, rate=1e-6), dict[str, int]()
    for t in range(labels):
        name = names[draw.integers(len(names))]
        if sources.distrusts(name):
            continue
        true = int(draw.choice([4, 6])) if name == "hard" else int(draw.integers(CLASSES))
        missed = HARD[true] + (0.9 - HARD[true]) * np.exp(-t / 150)
        predicted = other(true, draw) if draw.random() < missed else true
        told = other(true, draw) if draw.random() < flips[name] else true
        if sources.score(name, str(told), predicted == told):
            accused[name] = sources.standings[name].labels
            sources.decide(name, distrusted=True, by_hand=False)
    return sources, accused


def other(label: int, draw: np.random.Generator) -> int:
    return int((label + draw.integers(1, CLASSES)) % CLASSES)


@pytest.mark.parametrize(("flipped", "within"), [(0.4, 600), (0.3, 900), (1.0, 250)])
def test_a_source_that_flips_its_labels_is_named_and_honest_ones_are_not(
    flipped: float, within: int
) -> None:
    for seed in range(5):
        _, accused = follow({"a": 0.0, "hard": 0.0, "b": 0.02, "liar": flipped}, seed=seed)
        assert set(accused) == {"liar"}, (seed, accused)
        assert accused["liar"] <= within, (seed, accused)


def test_honest_sources_are_never_accused_in_sixty_thousand_labels() -> None:
    for seed in range(10):
        assert follow({"a": 0.0, "hard": 0.0, "b": 0.05, "c": 0.0}, seed=seed)[1] == {}


def test_two_liars_in_five_are_both_named() -> None:
    for seed in range(3):
        flips = {"a": 0.0, "b": 0.0, "c": 0.0, "x": 0.6, "y": 0.6}
        assert set(follow(flips, seed=seed, labels=8000)[1]) == {"x", "y"}


def test_a_source_alone_is_never_compared_or_accused() -> None:
    sources, accused = follow({"liar": 1.0}, seed=0)
    assert accused == {}
    assert sources.standings["liar"].compared == 0
    assert sources.standings["liar"].misses > 5000


def test_the_state_goes_on_bit_for_bit() -> None:
    whole, parts = (SourceTrust(tolerance=0.1, rate=1e-6) for _ in range(2))
    draw, saved = np.random.default_rng(0), dict[str, str]()
    for n in range(2000):
        said = f"s{n % 3}", str(draw.integers(4)), bool(draw.random() < 0.7)
        assert whole.score(*said) == parts.score(*said)
        if n % 97 == 0:
            saved |= parts.changed()
            parts = SourceTrust(tolerance=0.1, rate=1e-6, state=parts.state(), recent=saved)
    assert parts.state() == whole.state()
    assert saved | parts.changed() == whole.changed()


def test_what_an_operator_decides_the_figures_do_not_change() -> None:
    sources = SourceTrust(tolerance=0.1, rate=1e-6)
    sources.decide("liar", distrusted=False, by_hand=True)
    for n in range(2000):
        sources.score("honest", str(n % 3), True)
        assert not sources.score("liar", str(n % 3), False)
    assert not sources.distrusts("liar")
    assert sources.standings["liar"].odds > 100  # and yet they show
