"""How a node is taught and unlearns, and what is left of it."""

import json
from pathlib import Path
from typing import Any

import zstandard
from numpy.typing import NDArray
from support.datasets import npy
from support.live_node import Node
from support.patience import DEADLINE
from support.readouts import saved_sums

Labelled = list[tuple[str, NDArray[Any], str]]  # id, x, label


def teach(node: Node, samples: Labelled, source: str = "t") -> None:
    """Send them in order; returns once the last is stored."""
    heard = len(node.peer.messages)
    for identity, x, label in samples:
        node.send(npy(x), id=identity, label=label, source=source, wait=False)
    node.receipt(samples[-1][0], source=source, after=heard)


def unlearn(node: Node, *arguments: str) -> dict[str, Any]:
    done = node.run("samples", "unlearn", *arguments, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def live_readout(node: Node) -> tuple[list[str], bytes, bytes]:
    """Classes, A and B of the live readout, as a node saves them when it stops."""
    assert node.stop() == 0
    [path] = node.state.glob("live*.safetensors")
    classes, a, b = saved_sums(path)
    return classes, a.tobytes(), b.tobytes()


def left_in(state: Path, samples: Labelled) -> list[str]:
    """Files that hold a part of one of these samples, as the log keeps them."""
    pieces, compress = [], zstandard.ZstdCompressor(level=3).compress
    for _, x, _ in samples:
        packed = compress(x.tobytes())
        pieces += [packed[at : at + 24] for at in range(8, len(packed) - 24, 24)]
    files = [path for path in state.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(piece in path.read_bytes() for piece in pieces)]


def await_rows(node: Node, query: str, wanted: list[Any]) -> None:
    """Until the log says so; the node's own messages say when to look."""
    if node.rows(query) != wanted:
        node.peer.wait(lambda _: node.rows(query) == wanted, after=len(node.peer.messages),
                       timeout=3 * DEADLINE)
