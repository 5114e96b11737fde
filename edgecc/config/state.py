"""The state folder: the names under which a node keeps what it has on disk."""

from collections.abc import Iterator
from pathlib import Path


class State:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = folder / "lock"  # held by the edgecc that writes here
        self.log = folder / "log.sqlite"
        self.key = folder / "node.key"  # the secret key that signs now
        self.next_key = folder / "next.key"  # that a rotation under way will sign with
        self.key_statements = folder / "keys.json"  # the first key, and signed ones about later
        self.generations = folder / "generations"  # a folder for each, by number
        self.part = folder / "generation.part"  # one that is being written
        self.growths = folder / "growth"  # where the learner works: a folder for each open growth
        self.pushed = folder / "pushed"  # a generation that an operator sends
        self.broker = folder / "broker"  # of `edgecc start --with-broker`
        self.streams = folder / "streams"  # how far each `edgecc stream` has come
        self.costs = folder / "costs.json"  # what `edgecc bench costs` has measured here

    def live_readout(self, renumbered: int) -> Path:
        """The readout that serves, saved while labels had been renumbered so many times."""
        name = f"live-{renumbered}" if renumbered else "live"
        return self.folder / f"{name}.safetensors"

    def live_readouts(self) -> Iterator[Path]:
        return self.folder.glob("live*.safetensors")

    def make(self) -> None:
        """Make the folder, for its owner only."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def __str__(self) -> str:
        return str(self.folder)
