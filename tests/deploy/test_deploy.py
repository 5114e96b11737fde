"""The unit and the container that deploy/ ships, read by the programs that read them."""

import re
from pathlib import Path

import pytest
from support.shipped import DEPLOY, UNIT, needs, run


def settings() -> dict[str, list[str]]:
    """Each key of the unit with its values, in order; a key may stand more than once."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def runnable_unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here; nothing else is changed."""
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"(?m)^ExecStart=.*$", "ExecStart=/bin/true", UNIT.read_text()))
    return copy


def test_systemd_accepts_the_unit_without_a_complaint(runnable_unit: Path) -> None:
    analyze = needs("systemd-analyze", "systemd")
    assert run(analyze, "verify", runnable_unit) == ""


def test_systemd_rates_the_exposure_of_the_unit_at_1_5_or_less(runnable_unit: Path) -> None:
    analyze = needs("systemd-analyze", "systemd")
    report = run(analyze, "security", "--offline=true", "--no-pager", runnable_unit)
    score = re.search(r"Overall exposure level for \S+: ([\d.]+)", report)
    assert score, report
    assert float(score[1]) <= 1.5, report


def test_the_unit_starts_the_daemon_and_watches_it() -> None:
    unit = settings()
    start = "/opt/edgecc/bin/edgecc --config /etc/edgecc/edgecc.yaml start"
    assert unit["ExecStart"] == [start]
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert unit["WatchdogSec"] == ["60"]


def test_the_unit_restarts_the_daemon_except_where_a_person_is_needed() -> None:
    unit = settings()
    assert unit["Restart"] == ["always"]
    assert unit["RestartPreventExitStatus"] == ["77 78"]


def test_a_learner_killed_for_memory_does_not_end_the_daemon() -> None:
    unit = settings()
    assert unit["MemoryMax"] == ["512M"]
    assert unit["OOMPolicy"] == ["continue"]


def test_the_unit_leaves_the_learner_what_it_needs() -> None:
    unit = settings()
    assert "MemoryDenyWriteExecute" not in unit, "oneDNN generates code"
    assert unit["ProcSubset"] == ["all"], "LiteRT reads /proc/cpuinfo"
    assert not [value for value in unit["SystemCallFilter"] if "@resources" in value]


def test_the_container_copies_what_is_there_and_is_not_root() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert copied
    assert all(list(DEPLOY.parent.glob(name)) for name in copied)
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001"]
