"""What tests ask of a node's growths and generations."""

from pathlib import Path

from support.live_node import Node
from support.patience import DEADLINE

from edgecc.checkpoint import generation, signing
from edgecc.checkpoint.manifest import Manifest, parse


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
    parents = {one.digest: one.parent for one in manifests(node.state / "generations")}
    assert all(parent in parents or parent == "" for parent in parents.values())
    return list(parents)


def manifests(generations: Path) -> list[Manifest]:
    """Of all generations in a folder, oldest first."""
    folders = [generations / generation.name_of(n) for n in generation.numbers(generations)]
    return [parse(signing.payload_of(generation.read_manifest(folder))) for folder in folders]
