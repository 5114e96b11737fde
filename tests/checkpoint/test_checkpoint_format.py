"""docs/checkpoint-format.md is true: its script runs without edgecc and refuses any change."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nacl.signing import SigningKey
from safetensors.numpy import load_file
from support.patience import run_command

from edgecc.checkpoint import generation
from edgecc.checkpoint.manifest import FILES, Manifest
from edgecc.learn.readout import Readout, to_integers
from edgecc.plan.plan import Plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input
from edgecc.trunk.interpreter import Interpreter

PAGE = (Path(__file__).parents[2] / "docs/checkpoint-format.md").read_text()
(SCRIPT,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
Place = tuple[int, int]  # byte, bit
SPEC, KEY = Input("image", (1, 8, 8)), SigningKey(b"k" * 32)

# Runs the script where edgecc cannot be imported: once, or with each change of a file in turn.
AROUND = """
import contextlib, io, json, runpy, sys
from pathlib import Path
sys.modules["edgecc"] = None
script, changes, *sys.argv[1:] = sys.argv[1:]
def accepted():
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        runpy.run_path(script, run_name="__main__")
    return printed.getvalue()
for name, places in json.loads(changes).items():
    path = Path(sys.argv[1]) / name
    whole = path.read_bytes()
    for place, bit in places:
        data = bytearray(whole)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        try:
            accepted()
        except (Exception, SystemExit):
            continue
        print("accepted:", name, place, bit)
    path.write_bytes(whole)
print(accepted(), end="")
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, digits: Any) -> Path:
    """A folder as the node keeps it and a pull copies it."""
    root = tmp_path_factory.mktemp("format")
    (root / "generations").mkdir()
    trunk = stem_trunk(Plan(4, 3, (), 16, 64, {}), SPEC, seed=0)
    run, readout = Interpreter(trunk.compile()).run, Readout(trunk.dim)
    for image, target in zip(digits[0][:60], digits[1][:60], strict=True):
        readout.learn(to_integers(run(trunk.scale(image))), str(target))
    manifest = generation.base_manifest("cam1", SPEC, cursor=60, recipe={"seed": 0})
    generation.write(root / "part", manifest=manifest, trunk=trunk, readout=readout)
    generation.adopt(root / "part", root / "generations", KEY)
    return root / "generations" / "000000"


def run_script(
    checkpoint: Path, key: bytes, changes: dict[str, list[Place]] | None = None
) -> "subprocess.CompletedProcess[str]":
    script = checkpoint.parent / "script.py"
    script.write_text(SCRIPT)
    return run_command([sys.executable, "-I", "-c", AROUND, script, json.dumps(changes or {}),
                        checkpoint, key.hex()])


def test_the_script_opens_what_the_node_wrote_without_edgecc(checkpoint: Path) -> None:
    done = run_script(checkpoint, KEY.verify_key.encode())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cam1 0 ['0', '1'")
    assert "input.mean" in done.stdout
    assert len(SCRIPT.strip().splitlines()) <= 25
    imported = {line.split()[1] for line in SCRIPT.splitlines() if line.startswith("from ")}
    assert imported == {"pathlib", "nacl.signing", "safetensors.numpy"}


def test_the_script_refuses_another_key(checkpoint: Path) -> None:
    stranger = SigningKey(b"s" * 32).verify_key.encode()
    assert run_script(checkpoint, stranger).returncode != 0


def test_the_script_refuses_a_changed_byte_in_any_file(checkpoint: Path) -> None:
    changes = {name: list(_places(checkpoint / name)) for name in (*FILES, "manifest.json")}
    assert min(len(places) for places in changes.values()) > 100
    done = run_script(checkpoint, KEY.verify_key.encode(), changes)
    assert done.returncode == 0, done.stderr
    assert "accepted" not in done.stdout


def _places(path: Path) -> Iterator[Place]:
    """200 bytes all over a file; every bit of the last 250, which in the envelope are from the
    payload's end on the signature and what it is in."""
    size = path.stat().st_size
    yield from ((int(place), int(place) % 8) for place in np.linspace(0, size - 1, 200))
    if path.name == "manifest.json":
        yield from ((place, bit) for place in range(size - 250, size) for bit in range(8))


def test_the_page_names_every_field_and_every_tensor(checkpoint: Path) -> None:
    for item in fields(Manifest):
        assert f"`{item.name}`" in PAGE, item.name
    for name in load_file(checkpoint / "readout.safetensors"):
        assert f"`{name}`" in PAGE, name
    block = json.loads(generation.unsigned(checkpoint).to_json())["blocks"][0]  # type: ignore[union-attr]
    for name in block:
        assert f"`{name}`" in PAGE, name
