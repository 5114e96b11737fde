"""`edgecc bench latency` runs through, and its figures are of what they say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgecc.bench.streams import FASHION_FOLDER
from edgecc.mqtt.local_broker import find_mosquitto


def test_every_line_of_the_table_is_measured(tmp_path: Path) -> None:
    if find_mosquitto() is None or not FASHION_FOLDER.exists():
        pytest.skip("apt install mosquitto dataset-fashion-mnist")
    done = subprocess.run(
        [sys.executable, "-m", "edgecc", "bench", "latency", "--quick", "--out", str(tmp_path),
         "--json", str(tmp_path / "figures.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch eager" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert figures["trunk_speedup"] > 1
    assert figures["float32_error"] < 1e-4
    assert figures["int8_loss"] == pytest.approx(
        100 * (figures["float32_accuracy"] - figures["int8_accuracy"]))
    assert 0 < figures["echo_p50_ms"] < figures["prediction_p50_ms"] < 1000
    for by in ("samples", "classes"):
        fewest, most = figures[f"by_{by}"]
        assert fewest[by] < most[by]
        assert all(0 < ratio < 100 for ratio in most["ratio"].values())
    assert figures["classes_ratio"] == figures["by_classes"][-1]["ratio"]["prediction"]
    assert figures["log_ratio"] >= figures["by_samples"][-1]["ratio"]["label"]
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")
