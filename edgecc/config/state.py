"""The state folder: the names under which a node keeps what it has on disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class State:
    folder: Path

    @property
    def log(self) -> Path:
        """The log, an SQLite file."""
        return self.folder / "log.sqlite"

    @property
    def lock(self) -> Path:
        """Held by the edgecc that writes here."""
        return self.folder / "lock"

    @property
    def key(self) -> Path:
        """The secret key that signs now."""
        return self.folder / "node.key"

    @property
    def next_key(self) -> Path:
        """The key that a rotation under way will sign with."""
        return self.folder / "next.key"

    @property
    def key_statements(self) -> Path:
        """The first key, and what has been signed about the later ones."""
        return self.folder / "keys.json"

    @property
    def generations(self) -> Path:
        """One folder for each generation, by number."""
        return self.folder / "generations"

    @property
    def part(self) -> Path:
        """A generation that is being written."""
        return self.folder / "generation.part"

    @property
    def growths(self) -> Path:
        """Where the learner works, one folder for each open growth."""
        return self.folder / "growth"

    @property
    def pushed(self) -> Path:
        """A generation that an operator sends."""
        return self.folder / "pushed"

    @property
    def broker(self) -> Path:
        """The broker that `edgecc start --with-broker` runs."""
        return self.folder / "broker"

    @property
    def streams(self) -> Path:
        """How far each `edgecc stream` has come."""
        return self.folder / "streams"

    @property
    def costs(self) -> Path:
        """What `edgecc bench costs` has measured on this machine."""
        return self.folder / "costs.json"

    def live_readout(self, renumbered: int) -> Path:
        """The readout that serves, saved while labels had been renumbered so many times."""
        name = f"live-{renumbered}" if renumbered else "live"
        return self.folder / f"{name}.safetensors"

    def live_readouts(self) -> Iterator[Path]:
        return self.folder.glob("live*.safetensors")

    def make(self) -> None:
        """The folder, for its owner only."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def __str__(self) -> str:
        return str(self.folder)
