"""Which rows are taught and which are asked: the same for every contender.

A draw is an order of all training rows. "5" labels are the first five of each class in it, or all
where a class has fewer: so the rows of "5" are among those of "20".
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgecc.bench.real.datasets import RealSet
from edgecc.errors import ConfigError

DRAWS = {"1": 10, "5": 10, "20": 5, "50": 3, "all": 1}  # by labels a class
_SEED = 20261202
_HELD_OUT_IN = 4  # of the training rows or groups, one in so many is asked when validating


def chosen(labels: str) -> list[str]:
    """Of "1,20,all": the counts, ascending. ConfigError where one has no number of draws."""
    wanted = labels.split(",")
    unknown = [count for count in wanted if count not in DRAWS]
    if unknown:
        raise ConfigError(f"labels {', '.join(unknown)}: use some of {','.join(DRAWS)}")
    return [count for count in DRAWS if count in wanted]


def steps(y: NDArray[np.str_], labels: Sequence[str]) -> list[str]:
    """Of `labels`, the counts that add rows: 50 does not where no class has more than 50."""
    largest = max(Counter(y.tolist()).values())
    return [count for count in labels if count == "all" or int(count) < largest]


def taught(y: NDArray[np.str_], count: str, draw: int) -> NDArray[np.int64]:
    """Rows of draw number `draw`, in the order they are taught."""
    order = np.random.default_rng((_SEED, draw)).permutation(len(y))
    if count == "all":
        return order
    seen = Counter[str]()
    rows = []
    for row in order:
        seen[y[row]] += 1
        if seen[y[row]] <= int(count):
            rows.append(row)
    return np.array(rows)


def held_out(data: RealSet) -> RealSet:
    """The training rows alone, split again by their groups, to choose on."""
    names = np.random.default_rng(_SEED).permutation(np.unique(data.groups))
    if len(names) == len(data.y):
        names = data.groups[_by_class(data.y)]
    asked = np.isin(data.groups, names[::_HELD_OUT_IN])
    return replace(
        data, x=data.x[~asked], y=data.y[~asked], groups=data.groups[~asked],
        times=data.times[~asked], test_x=data.x[asked], test_y=data.y[asked])


def _by_class(y: NDArray[np.str_]) -> NDArray[np.int64]:
    """All rows, one class after the other, each in random order."""
    order = np.random.default_rng(_SEED).permutation(len(y))
    return order[np.argsort(y[order], kind="stable")]
