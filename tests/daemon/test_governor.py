"""When learning waits for the board or the time of day, and what settings a governor refuses."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecc.config.loading import load
from edgecc.config.quiet_hours import Hours, parse_hours, show_hours
from edgecc.config.schema import GovernorConfig
from edgecc.daemon.governor import CALM, COOLER, Limits
from edgecc.errors import ConfigError
from edgecc.host.board import Reading


def why(limits: Limits, now: float = 0.0, minute: int = 0, reading: Reading | None = None,
        **settings: object) -> str | None:
    limit = limits.forbid(GovernorConfig(**settings), reading or Reading(), now=now, minute=minute)  # type: ignore[arg-type]
    return None if limit is None else limit.text


def test_heat_is_waited_for_until_the_board_is_well_below_the_limit() -> None:
    limits = Limits()
    reasons = [why(limits, reading=Reading(celsius=celsius), max_celsius=75)
            for celsius in (74.9, 75.0, 78.0, 75.1 - COOLER, 75.0 - COOLER, 74.9 - COOLER, 74.9)]
    assert [bool(text) for text in reasons] == [False, True, True, True, True, False, False]
    assert reasons[2] == "too hot, 78.0 °C of 75"


def test_throttling_is_waited_for_until_it_has_been_over_for_a_while() -> None:
    limits, slow, fast = Limits(), Reading(throttled="the clock is capped"), Reading(throttled="")
    assert why(limits, 10.0, reading=fast) is None
    assert why(limits, 20.0, reading=slow) == "throttled, as the clock is capped"
    assert why(limits, 19.9 + CALM, reading=fast) == "throttled, as the clock is capped"
    assert why(limits, 20.0 + CALM, reading=fast) is None
    assert why(limits, 100.0, reading=slow, heed_throttling=False) is None


@pytest.mark.parametrize(("ranges", "time_of_day", "until"), [
    ("22:00-06:00", "21:59", None), ("22:00-06:00", "22:00", "06:00"),
    ("22:00-06:00", "00:00", "06:00"), ("22:00-06:00", "05:59", "06:00"),
    ("22:00-06:00", "06:00", None), (" 12:00-13:30,22:00 - 06:00", "12:30", "13:30"),
    ("12:00-13:30, 22:00-06:00", "13:30", None), ("", "12:00", None),
])
def test_quiet_hours_go_over_midnight(ranges: str, time_of_day: str, until: str | None) -> None:
    minute = int(time_of_day[:2]) * 60 + int(time_of_day[3:])
    reason = why(Limits(), minute=minute, quiet_hours=parse_hours(ranges))
    assert reason == (until and f"quiet hours until {until}")


minutes = st.integers(0, 24 * 60 - 1)


@given(st.lists(st.tuples(minutes, minutes).filter(lambda pair: pair[0] != pair[1])), minutes)
def test_quiet_hours_read_what_they_show(pairs: list[tuple[int, int]], minute: int) -> None:
    ranges = tuple(Hours(start, end) for start, end in pairs)
    assert parse_hours(show_hours(ranges)) == ranges
    for one in ranges:
        assert one.cover(minute) != Hours(one.end, one.start).cover(minute)


@pytest.mark.parametrize(("text", "says"), [
    ("quiet_hours: 22-6", "'22-6' is not a range of hours: write 22:00-06:00"),
    ("quiet_hours: 22:00-24:00", "is not a range"), ("quiet_hours: 07:60-08:00", "is not a range"),
    ("quiet_hours: 06:00-06:00", "is not a range"), ("quiet_hours: 06:00", "is not a range"),
    ("quiet_hours: '06:00-07:00,'", "is not a range"),
    ("max_celsius: 300", "governor.max_celsius 300.0 is not from 20 to 150"),
    ("cpu_share: 0", "governor.cpu_share 0.0 is not from 0.05 to 1"),
    ("cpu_share: .nan", "governor.cpu_share nan is not from"),
    ("max_temp: 70", "unknown key 'governor.max_temp'"),
])
def test_a_governor_that_cannot_be_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "edgecc.yaml").write_text(f"governor: {{{text}}}")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "edgecc.yaml", environ={})
    assert says in str(caught.value)
