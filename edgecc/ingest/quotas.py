"""What a source may send: labels on its list, and messages within its rate.

A rate is a bucket of `count` messages that fills at that rate. What the broker kept while the node
was away or busy comes all at once, so a bucket overflows only when a mark, a message of this node
to itself, has come back: by then everything older has been taken in. A source that keeps to its
rate loses nothing, however late its messages come; a flood gets no more than the rate in the end.
"""

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgecc.config.schema import SourceConfig
from edgecc.config.units import Rate
from edgecc.errors import MessageError, shown

_OTHERS = "*"
_ONE = 1 - 1e-6  # message, whatever sums of floats make of it
_MARKS = 1000  # under way at once; behind a queue of hours the oldest are given up


@dataclass
class Bucket:
    rate: Rate
    level: float  # messages that may come now
    at: float  # monotonic seconds

    def fill(self, now: float, most: float) -> None:
        self.level = min(self.level + (now - self.at) * self.rate.per_second, most)
        self.at = now


class Quotas:
    def __init__(
        self, sources: Mapping[str, SourceConfig], *, kept_for: float, state: str | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """kept_for: seconds for which the broker keeps messages; state: what `state()` returned."""
        self._sources, self._kept_for, self._clock = sources, kept_for, clock
        self._buckets: dict[str, Bucket] = {}
        self._marks: dict[str, float] = {}  # token: when it left
        self.refused: Counter[str] = Counter()  # messages over their rate, by source or `*`
        saved: dict[str, Any] = {"ts": 0.0, "levels": {}} if state is None else json.loads(state)
        now, away = clock(), max(0.0, time.time() - saved["ts"])
        for name, source in sources.items():
            if source.rate is not None:
                level = saved["levels"].get(name)
                self._buckets[name] = Bucket(
                    source.rate, source.rate.count if level is None else level,
                    now if level is None else now - min(away, kept_for))

    @property
    def limits(self) -> bool:
        return bool(self._buckets)

    def over_rate(self, source: str) -> str | None:
        """Count one message: None, or why it is one too many."""
        name = self._name(source)
        bucket = self._buckets.get(name)
        if bucket is None:
            return None
        bucket.fill(self._clock(), self._most(bucket, self._kept_for))
        if bucket.level >= _ONE:
            bucket.level -= 1
            return None
        self.refused[name] += 1
        return f"over sources.{name}.rate of {bucket.rate}: send more slowly, or raise it"

    def check_label(self, source: str, label: str | None) -> None:
        """MessageError where this source may not give this label, or (None) take one back."""
        name = self._name(source)
        allowed = self._sources[name].labels if name in self._sources else None
        if allowed is None or (label in allowed if label is not None else allowed):
            return
        what = "this source gives no labels" if not allowed else f"{shown(label)} is not among"
        raise MessageError(f"{what}: sources.{name}.labels is {shown(', '.join(allowed))}")

    # --- what tells late messages from too many ---

    def mark(self) -> str:
        """A token to publish to this node itself now."""
        token = secrets.token_hex(8)
        self._marks[token] = self._clock()
        if len(self._marks) > _MARKS:
            del self._marks[next(iter(self._marks))]
        return token

    def returned(self, token: str) -> bool:
        """Everything sent before this mark is taken in: buckets lose what is above their brim.

        False where the token is not of a mark.
        """
        if token not in self._marks:
            return False
        now, left = self._clock(), self._marks[token]
        self._marks = {other: at for other, at in self._marks.items() if at > left}
        for bucket in self._buckets.values():
            bucket.fill(now, self._most(bucket, now - left))
        return True

    def state(self) -> str:
        now = self._clock()
        for bucket in self._buckets.values():
            bucket.fill(now, self._most(bucket, self._kept_for))
        levels = {name: bucket.level for name, bucket in self._buckets.items()}
        return json.dumps({"ts": time.time(), "levels": levels})

    def _most(self, bucket: Bucket, seconds: float) -> float:
        """What an honest source can have sent in so many seconds."""
        return bucket.rate.count + seconds * bucket.rate.per_second

    def _name(self, source: str) -> str:
        return source if source in self._sources else _OTHERS
