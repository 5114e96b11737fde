"""Figures as JSON, one object per bench: {bench, machine, commit, figures}."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edgecc

Figures = dict[str, Any]  # by name


def save(bench: str, figures: Mapping[str, Any], *, out: Path, json_path: Path | None) -> None:
    """Write BENCH.json in the folder `out`, and the same at `json_path` where one is given."""
    for path in {out / f"{bench}.json", json_path or out / f"{bench}.json"}:
        write(path, bench, figures)


def write(path: Path, bench: str, figures: Mapping[str, Any]) -> None:
    """Accuracies and shares are fractions, times seconds unless the name says otherwise."""
    body = {"bench": bench, "machine": machine(), "commit": commit(), "figures": dict(figures)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=2) + "\n")


def machine() -> dict[str, Any]:
    return {
        "processor": _processor(), "cores": os.cpu_count(), "system": platform.platform(),
        "python": platform.python_version(), "edgecc": edgecc.__version__,
    }


def commit() -> str | None:
    """The checkout's commit; None for an installed package."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True, text=True, check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
