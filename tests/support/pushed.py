"""A node that trusts another, what that one has signed, and how it is pushed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nacl.signing import SigningKey
from support.datasets import Digits
from support.live_node import MakeNode, Node

from edgecc.checkpoint import generation
from edgecc.learn.readout import Readout
from edgecc.plan.plan import Plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input
from edgecc.trunk.trunk import Trunk

SPEC, TAUGHT = Input("image", (1, 8, 8)), 400
THEIRS = SigningKey(b"t" * 32)


@pytest.fixture
def taught(make_node: MakeNode, digits: Digits) -> Node:
    """A node that has learnt 400 digits, serves generation 1, and trusts the key of another."""
    node = make_node(trusted_keys=[THEIRS.verify_key.encode().hex()])
    node.start()
    teach(node, digits, range(TAUGHT))
    save(node, 1)
    return node


def teach(node: Node, digits: Digits, numbers: range, prefix: str = "d") -> None:
    chosen = slice(numbers.start, numbers.stop)
    node.receipt(node.stream(digits[0][chosen], digits[1][chosen], prefix)[-1])


def save(node: Node, number: int) -> None:
    done = node.run("checkpoint", "save")
    assert (done.returncode, json.loads(done.stdout)["generation"]) == (0, number), done.stderr
    node.ask(np.zeros((1, 8, 8), np.uint8), generation=number)


def made(
    root: Path, trunk: Trunk, readout: Readout | None = None, key: SigningKey = THEIRS,
    spec: Input = SPEC, **rest: Any,
) -> Path:
    """A generation that another node has signed."""
    about = generation.base_manifest(
        "other", spec, **({"cursor": 60, "recipe": {"seed": 0, "scaled_on": 0}} | rest))
    generation.write(
        root / "part", manifest=about, trunk=trunk, readout=readout or Readout(trunk.dim))
    (root / "made").mkdir(exist_ok=True)
    number = generation.adopt(root / "part", root / "made", key).number
    return root / "made" / generation.name_of(number)


def poor() -> Trunk:
    """Two features, which tell few digits apart."""
    return stem_trunk(Plan(1, 1, (), 16, 64, {}), SPEC, seed=0)


def push(node: Node, folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, answer, and what is on stderr."""
    done = node.run("checkpoint", "push", str(folder), *arguments)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def event(node: Node, kind: str, after: int = 0) -> dict[str, Any]:
    body: dict[str, Any] = node.peer.wait(
        lambda m: m.topic == node.topic("event") and m.json["type"] == kind, after=after).json
    return body
