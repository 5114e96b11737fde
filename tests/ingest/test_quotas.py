"""What a source may send, by a clock that the test turns."""

import heapq
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecc.config.schema import SourceConfig
from edgecc.config.units import parse_rate
from edgecc.errors import MessageError
from edgecc.ingest.quotas import Quotas

DAY = 86400.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def quotas(clock: Clock, state: str | None = None, **sources: Any) -> Quotas:
    return Quotas({name.replace("others", "*"): source for name, source in sources.items()},
                     kept_for=DAY, state=state, clock=clock)


def rate(text: str) -> SourceConfig:
    return SourceConfig(rate=parse_rate(text))


def let_in(limited: Quotas, source: str, count: int) -> int:
    return sum(limited.over_rate(source) is None for _ in range(count))


def test_a_bucket_holds_what_the_rate_says_and_fills_at_it() -> None:
    clock = Clock()
    limited = quotas(clock, door=rate("60/min"))
    assert let_in(limited, "door", 100) == 60
    assert limited.refused == {"door": 40}
    clock.now += 10
    assert let_in(limited, "door", 100) == 10
    reason = limited.over_rate("door")
    assert reason is not None
    assert "over sources.door.rate of 60/min" in reason


def test_sources_without_a_rule_share_that_of_the_others_whatever_their_names() -> None:
    limited = quotas(Clock(), door=rate("5/s"), others=rate("100/h"))
    assert sum(let_in(limited, f"s{n}", 10) for n in range(1000)) == 100
    assert let_in(limited, "door", 10) == 5
    assert let_in(quotas(Clock(), door=rate("5/s")), "garden", 1000) == 1000


gaps = st.lists(st.floats(0, 20), max_size=60)


@given(gaps, st.lists(st.floats(0, 300), max_size=5), st.floats(0.5, 30))
def test_a_source_that_keeps_to_its_rate_loses_nothing_however_late_it_arrives(
    gaps: list[float], absences: list[float], every: float
) -> None:
    """Sent as an honest bucket allows, queued in order, taken in whenever the node is there."""
    clock, start, limit = Clock(), 100.0, parse_rate("3/s")
    limited = quotas(clock, door=SourceConfig(rate=limit))
    queue: list[tuple[float, int, str]] = []
    now = level = 0.0
    level = float(limit.count)
    for number, gap in enumerate(gaps):
        level, now = min(level + gap * limit.per_second, limit.count), now + gap
        if level >= 1:
            level -= 1
            heapq.heappush(queue, (now, number, ""))
    away, free = sorted(absences), 0.0
    marked = -every
    while queue:
        sent, _, token = heapq.heappop(queue)
        free = max(free, sent, *(a + 30 for a in away if a <= sent < a + 30), sent)
        while marked + every <= free:  # marks leave while the node is there
            marked += every
            if not any(a <= marked < a + 30 for a in away) and marked >= sent:
                clock.now = start + marked
                heapq.heappush(queue, (marked, 10**6, limited.mark()))
        clock.now = max(clock.now, start + free)
        if token:
            assert limited.returned(token)
        else:
            assert limited.over_rate("door") is None


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 200)), max_size=40))
def test_a_flood_gets_no_more_than_its_rate_in_the_end(bursts: list[tuple[float, int]]) -> None:
    clock = Clock()
    limited, passed = quotas(clock, door=rate("10/s")), 0
    for pause, count in bursts:
        clock.now += pause
        passed += let_in(limited, "door", count)
    assert passed <= 10 + (clock.now - 100.0) * 10 + 1e-3


def test_after_a_mark_has_come_back_quiet_hours_are_no_licence_for_a_flood() -> None:
    clock = Clock()
    limited = quotas(clock, door=rate("10/s"))
    clock.now += 3600
    token = limited.mark()
    clock.now += 0.5
    assert limited.returned(token)
    assert not limited.returned(token)
    assert let_in(limited, "door", 1000) == 15


def test_what_is_left_survives_a_restart_and_grows_by_the_time_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, wall = Clock(), 1e9
    monkeypatch.setattr("time.time", lambda: wall)
    limited = quotas(clock, door=rate("10/s"))
    assert let_in(limited, "door", 10) == 10
    state = limited.state()
    wall += 20
    assert let_in(quotas(clock, state, door=rate("10/s")), "door", 1000) == 200
    wall -= 1000  # a clock that went back
    assert let_in(quotas(clock, state, door=rate("10/s")), "door", 1000) == 0
    wall += 10 * DAY
    assert let_in(quotas(clock, state, door=rate("1/min")), "door", 10**4) == DAY // 60
    assert let_in(quotas(clock, state, garden=rate("10/s")), "garden", 100) == 10


def test_labels_are_those_on_the_list() -> None:
    limited = quotas(
        Clock(), door=SourceConfig(labels=("cat", "dog")), mute=SourceConfig(labels=()))
    for label in ("cat", "dog", None):
        limited.check_label("door", label)
        limited.check_label("garden", label)
    limited.check_label("garden", "wolf")
    with pytest.raises(MessageError, match=r"'wolf' is not among: sources\.door\.labels is"):
        limited.check_label("door", "wolf")
    for label in ("cat", None):
        with pytest.raises(MessageError, match="this source gives no labels"):
            limited.check_label("mute", label)
