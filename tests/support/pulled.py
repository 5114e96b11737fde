"""A node that has learnt 400 digits, and what an operator pulls from it to another folder."""

import json
import subprocess
from pathlib import Path

import pytest
from support.datasets import Digits
from support.live_node import MakeNode, Node

TAUGHT = 400


@pytest.fixture
def taught(make_node: MakeNode, digits: Digits) -> Node:
    """A node that has learnt 400 digits; generation 0 is the bare stem, 1 knows them.

    Its budget makes its readout several chunks long.
    """
    node = make_node(memory_budget="512MiB")
    node.start()
    ids = node.stream(digits[0][:TAUGHT], digits[1][:TAUGHT])
    node.receipt(ids[-1])
    done = node.run("checkpoint", "save")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["generation"] == 1
    node.ask(digits[0][0], generation=1)
    return node


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def pull(node: Node, elsewhere: Path, *arguments: str) -> Path:
    """The folder of the pulled generation."""
    done = node.run("checkpoint", "pull", "--json", *arguments, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    return elsewhere / json.loads(done.stdout)["folder"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def own(node: Node, number: int) -> dict[str, bytes]:
    return contents(node.state / "generations" / f"{number:06d}")


def refusal(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """Exit code and the one line that a failed command leaves."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("edgecc: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, lines[0]
