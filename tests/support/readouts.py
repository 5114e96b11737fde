"""Small readouts, and whether two are alike to the bit."""

from collections.abc import Iterable

import numpy as np

from edgecc.learn.readout import Readout

DIM = 5
Learnt = tuple[list[int], str]


def readout_of(samples: Iterable[Learnt], classes: Iterable[str] = "abc") -> Readout:
    readout = Readout(DIM, list(classes))
    for values, label in samples:
        readout.learn(np.array(values, float), label)
    return readout


def same_bits(one: Readout, other: Readout) -> bool:
    """A, B and classes alike; copying sums up what still waits."""
    left, right = one.copy(), other.copy()
    return (
        left.A.tobytes() == right.A.tobytes()
        and left.B.tobytes() == right.B.tobytes()
        and left.classes == right.classes
    )
