"""What a run must leave: everything sent is stored, once, and every generation is whole."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from support.live_node import Node
from support.patience import DEADLINE
from support.peer import Message

from edgecc.checkpoint import generation
from edgecc.checkpoint.signing import load_key
from edgecc.errors import CheckpointError


@dataclass
class Checker:
    """Follows one node: what was sent to it, what it says of that, and what its log holds."""

    node: Node
    sent: dict[str, str | None] = field(default_factory=dict)  # samples and their one label
    receipted: set[str] = field(default_factory=set)
    told: dict[str, set[bytes]] = field(default_factory=dict)  # predictions heard of each sample
    stored: set[str] = field(default_factory=set)
    vanished: set[str] = field(default_factory=set)  # receipted, and at some kill not in the log
    _digests: set[str] = field(default_factory=lambda: {""})  # of every generation seen so far
    _heard: int = 0

    @property
    def generations(self) -> int:
        return len(self._digests) - 1

    def listen(self) -> None:
        """Take in what the node has said since the last time."""
        messages = self.node.peer.messages
        until = len(messages)
        for message in messages[self._heard:until]:
            self._note(message)
        self._heard = until

    def _note(self, message: Message) -> None:
        if message.topic.endswith("/receipt"):
            self.receipted |= {entry["id"] for entry in message.json
                               if entry["status"] in ("stored", "duplicate")
                               and "label" not in entry}
        elif message.topic.endswith("/prediction"):
            self.told.setdefault(message.json["sample_id"], set()).add(message.payload)

    def look(self) -> None:
        """While the daemon is dead: what it has receipted so far is in its log."""
        self.listen()
        self.stored |= {i for (i,) in self.node.rows(
            "SELECT id FROM sample WHERE row > ?", len(self.stored))}
        self.vanished |= self.receipted - self.stored
        self._see_generations()

    def _see_generations(self) -> None:
        """Before they are pruned."""
        self._digests |= set(chain(self.node))

    def await_stored(self, timeout: float = 3 * DEADLINE) -> None:
        """Until all that was sent is receipted, and every label is in the log.

        A producer's own word counts: the broker may have died before we heard of the receipt.
        """
        labels = sum(label is not None for label in self.sent.values())

        def complete(_message: Message) -> bool:
            self.listen()
            return self.sent.keys() <= self.receipted and self.node.rows(
                "SELECT COUNT(*) FROM label")[0][0] >= labels

        if not complete(self.node.peer.messages[-1]):
            self.node.peer.wait(complete, after=len(self.node.peer.messages), timeout=timeout)

    # --- the verdict, once all is quiet ---

    def lost(self) -> set[str]:
        """Not stored, or without its label or its prediction, or receipted before it was there.

        A sensor's first windows have no prediction: its scale is measured on them.
        """
        self.listen()
        rows = self.node.rows(
            "SELECT s.id, s.label, p.row IS NOT NULL OR s.row < (SELECT MIN(row) FROM prediction)"
            " FROM sample s LEFT JOIN prediction p USING (row)")
        labels = {identity: label for identity, label, _ in rows}
        assert self.receipted <= self.sent.keys(), "receipts of what was never sent"
        assert labels.keys() <= self.sent.keys(), "stored samples that were never sent"
        unpredicted = {identity for identity, _, predicted in rows if not predicted}
        missing = {identity for identity, label in self.sent.items()
                   if labels.get(identity, "not stored") != label}
        return self.vanished | unpredicted | missing

    def duplicated(self) -> set[str]:
        """Stored or labelled more than once, or predicted otherwise than is stored."""
        self.listen()
        rows = self.node.rows(
            "SELECT id, (SELECT COUNT(*) FROM label l WHERE l.row = s.row) FROM sample s")
        twice = {identity for identity, count in Counter(i for i, _ in rows).items() if count > 1}
        twice |= {identity for identity, labels in rows if labels > 1}
        bodies = dict(self.node.rows(
            "SELECT id, body FROM sample JOIN prediction USING (row)"))
        return twice | {identity for identity, told in self.told.items()
                        if told != {bodies[identity]}}

    def broken(self) -> set[str]:
        """Generations that do not open, are not signed, or whose parent was never there."""
        key = load_key(self.node.state / "node.key").verify_key
        self._see_generations()
        bad: set[str] = set()
        for path in _generations(self.node):
            try:
                manifest = generation.load(path, [key]).manifest
            except CheckpointError:
                bad.add(path.name)
                continue
            if manifest.parent not in self._digests:
                bad.add(path.name)
        return bad


def chain(node: Node) -> list[str]:
    """Digests of the node's generations, oldest first."""
    return [manifest.digest for manifest in map(generation.unsigned, _generations(node))
            if manifest is not None]


def _generations(node: Node) -> list[Path]:
    folder = node.state / "generations"
    return [folder / generation.name_of(number) for number in generation.numbers(folder)]
