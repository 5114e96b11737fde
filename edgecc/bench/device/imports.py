"""What each dependency costs to import: processor time, and memory as the kernel counts it.

Every import is a process of its own, less a bare Python's; each brings what it imports itself.
Rounds alternate; figures are medians.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import click

from edgecc.bench import figures
from edgecc.plan.costs import MIB

BARE = "bare Python"
MODULES = {  # of each distribution, what is imported of it, and by whom
    "click": ("click", "commands"),
    "paho-mqtt": ("paho.mqtt.client", "daemon"),
    "PyYAML": ("yaml", "daemon"),
    "numpy": ("numpy", "daemon, learner"),
    "ai-edge-litert": ("ai_edge_litert.interpreter", "daemon, learner"),
    "flatbuffers": ("flatbuffers", "daemon, learner"),
    "safetensors": ("safetensors.numpy", "daemon, learner"),
    "pynacl": ("nacl.signing", "daemon, learner"),
    "Pillow": ("PIL.Image, PIL.JpegImagePlugin, PIL.PngImagePlugin", "daemon, at a picture"),
    "zstandard": ("zstandard", "daemon, learner"),
    "torch": ("torch", "learner, where planned"),
}
WHOLE = {
    "the daemon": ("edgecc.daemon.daemon", ""),
    "the learner with numpy": ("edgecc.training.learner, edgecc.training.growth", ""),
}
_SCRIPT = """
import time
started = time.process_time()
{line}
seconds = time.process_time() - started
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
sizes = [int(status[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon")]
import json
print(json.dumps([seconds, *sizes]))
"""

Measured = tuple[float, float, float]  # seconds of CPU, bytes resident, bytes of these anonymous


def run(*, quick: bool, json_path: Path | None) -> None:
    wanted = {BARE: "pass"} | {
        name: f"import {modules}" for name, (modules, _) in (MODULES | WHOLE).items()}
    rounds = [{name: _imported(line) for name, line in wanted.items()}
              for _ in range(1 if quick else 5)]
    medians = {name: _median([one[name] for one in rounds]) for name in wanted}
    bare = medians.pop(BARE)
    click.echo(f"bare Python: {bare[1] / MIB:.1f} MiB, {bare[2] / MIB:.1f} of them anonymous; "
               "beyond that:")
    rows: dict[str, Any] = {}
    for name, one in medians.items():
        seconds, resident, anonymous = (a - b for a, b in zip(one, bare, strict=True))
        rows[name] = {"import_s": seconds, "resident_mib": resident / MIB,
                      "anonymous_mib": anonymous / MIB}
        by = (MODULES | WHOLE)[name][1]
        click.echo(f"{name:24}{seconds * 1000:8.0f} ms{resident / MIB:8.1f} MiB"
                   f"{anonymous / MIB:8.1f} anonymous  {by}")
    if json_path is not None:
        figures.write(json_path, "imports", rows)


def _imported(line: str) -> Measured:
    done = subprocess.run([sys.executable, "-c", _SCRIPT.format(line=line)],
                          stdout=subprocess.PIPE, check=True)
    seconds, resident, anonymous = json.loads(done.stdout)
    return seconds, resident, anonymous


def _median(rounds: list[Measured]) -> Measured:
    seconds, resident, anonymous = (median(column) for column in zip(*rounds, strict=True))
    return seconds, resident, anonymous
