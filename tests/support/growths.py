"""A stream on which blocks help, and what tests ask of a node's growths and generations."""

from pathlib import Path

import numpy as np
from support.live_node import Digits, Node
from support.patience import DEADLINE

from edgecc.capture.dataset import load_idx
from edgecc.checkpoint import generation, manifest, signing

FASHION = Path("/usr/share/datasets/fashion-mnist")
SERIES = {"kind": "sensor", "shape": [1, 196]}


def fashion_series() -> Digits:
    """Clothes at 14x14, read row by row as one series: hard for the stem, so blocks help."""
    images, labels = load_idx(FASHION)
    small = images[:3000].reshape(-1, 14, 2, 14, 2).mean((2, 4))
    return small.reshape(-1, 1, 196).astype(np.float32), labels[:3000]


def closed(node: Node, number: int) -> bool:
    """Whether growth `number` is over."""
    return bool(node.rows("SELECT 1 FROM growth WHERE closed=1 AND number=?", number))


def await_closed(node: Node, number: int) -> None:
    """Until growth `number` is over; the node's own messages say when to look."""
    if not closed(node, number):
        node.peer.wait(lambda _: closed(node, number), after=len(node.peer.messages),
                       timeout=3 * DEADLINE)


def chain(node: Node) -> list[str]:
    """Digests of the node's generations, oldest first; each names its parent's."""
    found = []
    for number in generation.numbers(node.state / "generations"):
        envelope = (node.state / "generations" / generation.name_of(number) / "manifest.json")
        found.append(manifest.parse(signing.payload_of(envelope.read_bytes())))
    parents = {one.digest: one.parent for one in found}
    assert all(parent in parents or parent == "" for parent in parents.values())
    return [one.digest for one in found]
