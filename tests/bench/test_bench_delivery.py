"""`edgecc bench delivery` runs through, and its figures are of what they say."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgecc.mqtt.local_broker import find_mosquitto

SHARES = ("throughput_ratio", "throughput_ratio_unpredicted", "pull_ratio")


def test_every_line_of_the_table_is_measured(tmp_path: Path) -> None:
    if find_mosquitto() is None or shutil.which("mosquitto_sub") is None:
        pytest.skip("mosquitto is missing: apt install mosquitto mosquitto-clients")
    done = subprocess.run(
        [sys.executable, "-m", "edgecc", "bench", "delivery", "--quick", "--out", str(tmp_path),
         "--json", str(tmp_path / "figures.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "plain paho" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert all(0 < figures[name] < 2 for name in SHARES), figures
    assert 0 < figures["receipt_p50_ms"] <= figures["receipt_p99_ms"]
    assert 0.1 < figures["recovery_s"] < 30
    assert figures["written_mb_per_1000"] > 1
    assert 20 < figures["daemon_us_per_sample"] < 100_000
    assert 40 < figures["daemon_peak_mib"] < 512
