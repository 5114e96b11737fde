"""What a board says, and when learning waits for it."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_board import Board, write_vcgencmd
from support.patience import until

from edgecc.config.loading import load
from edgecc.config.quiet_hours import Hours, parse_hours, show_hours
from edgecc.config.schema import GovernorConfig
from edgecc.daemon.governor import CALM, COOLER, Limits
from edgecc.errors import ConfigError
from edgecc.host.board import Reading, Sensors
from edgecc.host.duty_cycle import Pace

# Of a Pi 5, shortened.
PMIC = """     3V3_SYS_A current(1)=0.05000000A
     VDD_CORE_A current(7)=2.00000000A
     3V3_SYS_V volt(9)=3.30000000V
     VDD_CORE_V volt(15)=0.75000000V
     EXT5V_V volt(24)=5.14880000V"""


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "sys")


@pytest.fixture(autouse=True)
def no_vcgencmd_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")


# --- what the board says ---


def test_a_board_without_sensors_says_nothing(board: Board) -> None:
    assert Sensors(board.sysfs).read() == Reading(None, None, None, "")


def test_the_hottest_zone_counts_and_a_broken_one_does_not(board: Board) -> None:
    board.heat(48.312)
    board.heat(61.5, zone=1)
    board.write("class/thermal/thermal_zone2/temp", "what")
    assert Sensors(board.sysfs).read().celsius == 61.5


@pytest.mark.parametrize(("flags", "says"), [
    ("0", ""), ("50000", ""), ("80008", ""), ("1", "voltage is low"), ("e0002", "capped"),
    ("50005", "voltage is low, the board is throttled"),
])
def test_only_what_is_true_now_slows_the_board(
    board: Board, tmp_path: Path, flags: str, says: str
) -> None:
    """By the kernel's file, then by vcgencmd, which comes first where it may ask."""
    board.write("devices/platform/soc/soc:firmware/get_throttled", flags)
    told = Sensors(board.sysfs).read().throttled
    assert told is not None
    assert told.endswith(says)
    assert bool(told) == bool(says)
    board.write("devices/platform/soc/soc:firmware/get_throttled", "7")
    write_vcgencmd(tmp_path / "bin", get_throttled=f"throttled=0x{flags}")
    assert Sensors(board.sysfs).read().throttled == told


def test_low_voltage_and_a_clock_held_down_are_seen_without_the_firmware(board: Board) -> None:
    board.write("class/hwmon/hwmon1/name", "rpi_volt")
    board.write("class/hwmon/hwmon1/in0_lcrit_alarm", 0)
    board.write("class/thermal/cooling_device0/type", "pwm-fan")
    board.write("class/thermal/cooling_device0/cur_state", 3)
    sensors = Sensors(board.sysfs)
    assert sensors.read().throttled == ""
    board.write("class/hwmon/hwmon1/in0_lcrit_alarm", 1)
    assert sensors.read().throttled == "the supply's voltage is low"
    board.write("class/thermal/cooling_device1/type", "cpufreq-cpu0")
    board.write("class/thermal/cooling_device1/cur_state", 2)
    assert str(sensors.read().throttled).endswith("low, the kernel holds the clock down")


def test_vcgencmd_says_what_the_kernel_does_not_and_is_not_asked_in_vain(
    board: Board, tmp_path: Path
) -> None:
    folder = write_vcgencmd(tmp_path / "bin", measure_temp="temp=72.3'C")
    sensors = Sensors(board.sysfs)
    for _ in range(3):
        assert sensors.read() == Reading(72.3, None, None, "")
    asked = (folder / "asked").read_text().split()
    assert (asked.count("measure_temp"), asked.count("pmic_read_adc")) == (3, 1)


def test_joules_are_counted_over_the_end_of_a_counter(board: Board) -> None:
    for name, counter in (("package-0", 900_000_000), ("psys", 1), ("core", 2)):
        board.write(f"class/powercap/{name}/name", name)
        board.write(f"class/powercap/{name}/energy_uj", counter)
    board.write("class/powercap/package-0/max_energy_range_uj", 1_000_000_000)
    sensors = Sensors(board.sysfs)
    assert sensors.read().joules == 0
    board.write("class/powercap/package-0/energy_uj", 950_000_000)
    assert sensors.read().joules == pytest.approx(50)
    board.write("class/powercap/package-0/energy_uj", 30_000_000)
    last = sensors.read()
    assert last.joules == pytest.approx(50 + 80)
    assert "RAPL" in last.powered


def test_joules_are_watts_over_time_of_a_meter_or_of_the_rails_of_a_pi_5(
    board: Board, tmp_path: Path
) -> None:
    clock = iter([0.0, 2.0, 4.0, 0.0, 2.0])
    write_vcgencmd(tmp_path / "bin", pmic_read_adc=PMIC)
    rails = Sensors(board.sysfs, clock=lambda: next(clock))
    assert [rails.read().joules for _ in range(3)] == pytest.approx([0.0, 3.33, 6.66])
    board.write("class/hwmon/hwmon2/name", "ina219")
    board.write("class/hwmon/hwmon2/power1_input", 4_500_000)
    meter = Sensors(board.sysfs, clock=lambda: next(clock))
    assert [meter.read().joules for _ in range(2)] == pytest.approx([0.0, 9.0])


def test_two_meters_are_not_added_as_nobody_knows_what_they_measure(board: Board) -> None:
    for number in (0, 1):
        board.write(f"class/hwmon/hwmon{number}/power1_input", 1_000_000)
    assert Sensors(board.sysfs).read().joules is None


# --- when learning waits ---


def why(limits: Limits, now: float = 0.0, minute: int = 0, reading: Reading | None = None,
        **settings: object) -> str | None:
    found = limits.forbid(GovernorConfig(**settings), reading or Reading(), now=now, minute=minute)  # type: ignore[arg-type]
    return None if found is None else found.text


def test_heat_is_waited_for_until_the_board_is_well_below_the_limit() -> None:
    limits = Limits()
    told = [why(limits, reading=Reading(celsius=celsius), max_celsius=75)
            for celsius in (74.9, 75.0, 78.0, 75.1 - COOLER, 75.0 - COOLER, 74.9 - COOLER, 74.9)]
    assert [bool(text) for text in told] == [False, True, True, True, True, False, False]
    assert told[2] == "too hot, 78.0 °C of 75"


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
    found = why(Limits(), minute=minute, quiet_hours=parse_hours(ranges))
    assert found == (until and f"quiet hours until {until}")


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


# --- a share of the time ---


@pytest.fixture
def spinning() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that wants all the time there is."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield process
        process.kill()


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def becomes(pid: int, wanted: str) -> bool:
    return until(lambda: state(pid) == wanted, f"it is never {wanted}")


def used(pid: int, seconds: float) -> float:
    before, started = ticks(pid), time.monotonic()
    time.sleep(seconds)
    return (ticks(pid) - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - started)


def test_a_process_gets_its_share_of_the_time_and_no_more(
    spinning: "subprocess.Popen[bytes]"
) -> None:
    pace = Pace()
    pace.follow(spinning.pid)
    pace.set(0.2)
    assert 0.02 < used(spinning.pid, 2.5) < 0.3
    pace.set(0.0)
    assert becomes(spinning.pid, "T")
    assert used(spinning.pid, 0.6) == 0
    pace.follow(None)
    assert becomes(spinning.pid, "R")
    pace.follow(spinning.pid)
    assert becomes(spinning.pid, "T")
    pace.set(1.0)
    assert used(spinning.pid, 0.6) > 0.05


def test_a_process_that_was_stopped_by_another_stays_so(
    spinning: "subprocess.Popen[bytes]"
) -> None:
    pace = Pace()
    pace.follow(spinning.pid)
    os.kill(spinning.pid, signal.SIGSTOP)
    assert becomes(spinning.pid, "T")
    pace.set(1.0)
    pace.follow(None)
    assert used(spinning.pid, 0.3) == 0


READS = """
import sqlite3, sys, time
log = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
while True:
    rows = log.execute("SELECT * FROM number")
    next(rows)
    time.sleep(0.03)
    rows.close()
    time.sleep(0.03)
"""


def test_a_reader_of_the_log_is_never_stopped_in_the_middle_of_it(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It would keep the write-ahead file from being truncated."""
    path = tmp_path / "log.sqlite"
    log = sqlite3.connect(path, isolation_level=None)
    log.executescript("PRAGMA journal_mode=WAL; CREATE TABLE number (n);"
                      "INSERT INTO number VALUES (1), (2), (3);")
    process, pace = subprocess.Popen([sys.executable, "-c", READS, str(path)]), Pace()
    request.addfinalizer(process.kill)
    pace.follow(process.pid)
    for _ in range(12):
        pace.set(0.0)
        until(lambda: at_rest(process.pid, 0.1), "it is never at rest")
        log.execute("INSERT INTO number VALUES (4)")
        assert log.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0, "busy"
        assert state(process.pid) == "T"
        pace.set(1.0)
        assert becomes(process.pid, "S")
    process.kill()
    process.wait()
    log.close()


def at_rest(pid: int, seconds: float) -> bool:
    """Whether it is stopped all through that time, and not on its way to be continued."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        if state(pid) != "T":
            return False
        time.sleep(0.005)
    return True
