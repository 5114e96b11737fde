"""Whose labels can be trusted: how often each source contradicts what was predicted beforehand.

A label is compared with the prediction made before anything was learnt from it, and its source
with the other sources' newest labels of the same class, so neither a hard class nor a young model
accuses anybody. Where a source is the only one, nothing is compared, and only its figures show.

The test is sequential: a source that misses at most `tolerance` more often than the others
is accused at most once in 1/`rate` of its labels on average, however long it is watched.

Source of the test: mixture of likelihood ratios, restarted at 1 (CUSUM); Shin, Ramdas, Rinaldo,
"E-detectors", NEJSDS 2023: the mean run length to a false alarm is at least the threshold.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_SHARES = (0.05, 0.1, 0.2, 0.4, 0.8)  # of labels that may be wrong: the alternatives mixed
_MEMORY = 0.97  # weight of a class's past at each of its labels: about the newest 30
_ENOUGH = 10.0  # labels of the others, so weighted, below which nothing is compared
_GRACE = 30  # first labels of a source that are no evidence: its samples may be new to the model
_CERTAIN = 0.95  # the highest rate of misses that a test still looks beyond


@dataclass
class Standing:
    """One source: exact counts, and the evidence against it."""

    labels: int = 0  # given to samples that had been predicted
    misses: int = 0  # of these, other than predicted
    compared: int = 0
    missed: int = 0  # of those compared
    expected: float = 0.0  # misses among those compared, had it been like the others
    evidence: list[float] = field(default_factory=lambda: [0.0] * len(_SHARES))
    distrusted: bool = False
    by_hand: bool = False  # an operator has decided, and nothing else does from then on

    @property
    def odds(self) -> float:
        """log of the mixture's likelihood ratio."""
        return math.log(sum(math.exp(min(one, 600.0)) for one in self.evidence) / len(_SHARES))

    def weigh(self, miss: bool, others: float, bound: float) -> None:
        """One label, where the others miss `others` of theirs and up to `bound` is forgiven."""
        self.compared += 1
        self.missed += miss
        self.expected += others
        for k, share in enumerate(_SHARES):
            likelier = math.log((bound + share * (1 - bound)) / bound) if miss else (
                math.log(1 - share))
            self.evidence[k] = max(0.0, self.evidence[k] + likelier)


class SourceTrust:
    """Every labelling source; a function of the scored labels, in the order of the log."""

    def __init__(
        self, *, tolerance: float, rate: float, state: str | None = None,
        recent: Mapping[str, str] | None = None,
    ) -> None:
        """state and recent: what `state` and `changed` gave."""
        self._tolerance, self._threshold = tolerance, -math.log(rate)
        named = {} if state is None else json.loads(state)["standings"]
        self.standings = {name: Standing(**one) for name, one in named.items()}
        self._recent: dict[str, dict[str, list[float]]] = {  # class: source: [misses, labels]
            label: json.loads(one) for label, one in (recent or {}).items()}
        self._changed = set[str]()  # classes

    def score(self, source: str, label: str, hit: bool) -> bool:
        """Count a label; True where it makes its source one to distrust."""
        standing = self.standings.setdefault(source, Standing())
        standing.labels += 1
        standing.misses += not hit
        if standing.labels > _GRACE and (others := self._others(source, label)) is not None:
            standing.weigh(not hit, others, min(others + self._tolerance, _CERTAIN))
        self._remember(source, label, not hit)
        return not standing.by_hand and standing.odds >= self._threshold

    def decide(self, source: str, *, distrusted: bool, by_hand: bool) -> None:
        """From now on; the counts stay, the evidence does not."""
        standing = self.standings.setdefault(source, Standing())
        standing.distrusted, standing.by_hand = distrusted, by_hand
        standing.evidence = [0.0] * len(_SHARES)
        if distrusted:
            for recent in self._recent.values():
                recent.pop(source, None)
            self._changed.update(self._recent)

    def distrusts(self, source: str) -> bool:
        """True where labels of `source` are kept, but not learnt."""
        return source in self.standings and self.standings[source].distrusted

    @property
    def distrusted(self) -> list[str]:
        return [name for name, one in self.standings.items() if one.distrusted]

    def state(self) -> str:
        """Every source; with all that `changed` gave, a new `SourceTrust` goes on bit for bit."""
        return json.dumps({"standings": {
            name: asdict(one) for name, one in self.standings.items()}})

    def changed(self) -> dict[str, str]:
        """What is known of the classes labelled since this was last asked: there may be many."""
        changed, self._changed = self._changed, set()
        return {label: json.dumps(self._recent[label]) for label in sorted(changed)}

    def report(self) -> Iterator[dict[str, Any]]:
        for name, one in sorted(self.standings.items()):
            shown = {"source": name} | asdict(one)
            del shown["evidence"]
            yield shown | {"expected": round(one.expected, 1), "odds": round(one.odds, 2),
                           "threshold": round(self._threshold, 2)}

    def _others(self, source: str, label: str) -> float | None:
        """The share of their labels of this class that the others missed lately."""
        rest = [one for name, one in self._recent.get(label, {}).items() if name != source]
        misses, labels = (sum(values) for values in zip(*rest, strict=True)) if rest else (0, 0)
        return (misses + 0.5) / (labels + 1) if labels >= _ENOUGH else None

    def _remember(self, source: str, label: str, miss: bool) -> None:
        recent = self._recent.setdefault(label, {})
        for values in recent.values():
            values[0] *= _MEMORY
            values[1] *= _MEMORY
        mine = recent.setdefault(source, [0.0, 0.0])
        mine[0] += miss
        mine[1] += 1
        self._changed.add(label)
