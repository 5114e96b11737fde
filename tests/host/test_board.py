"""What a board says of its heat, its throttling and its power."""

from pathlib import Path

import pytest
from support.fake_board import Board, write_vcgencmd

from edgecc.host.board import Reading, Sensors

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
    throttled = Sensors(board.sysfs).read().throttled
    assert throttled is not None
    assert throttled.endswith(says)
    assert bool(throttled) == bool(says)
    board.write("devices/platform/soc/soc:firmware/get_throttled", "7")
    write_vcgencmd(tmp_path / "bin", get_throttled=f"throttled=0x{flags}")
    assert Sensors(board.sysfs).read().throttled == throttled


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
