"""`edgecc bench memory` runs through: a node within a small budget trains, and stays in it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgecc.mqtt.local_broker import find_mosquitto


def test_plan_and_peak_stand_beside_each_other(tmp_path: Path) -> None:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is missing: apt install mosquitto")
    done = subprocess.run(
        [sys.executable, "-m", "edgecc", "bench", "memory", "--quick", "--out", str(tmp_path),
         "--json", str(tmp_path / "figures.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert figures["smallest_budget_mib"] == 192
    only, = figures["budgets"]
    assert only["backend"] == "numpy"
    assert only["verdicts"] > 0
    assert 40 < only["pss_mib"] < only["peak_mib"] <= 192
    assert only["daemon_mib"] + only["learner_mib"] == only["peak_mib"]
    assert 10 < only["idle_mib"] < only["daemon_mib"]
