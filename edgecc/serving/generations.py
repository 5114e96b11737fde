"""The node's generations on disk: loaded once they are checked, numbered and signed when new."""

import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgecc.checkpoint import generation
from edgecc.checkpoint.generation import Generation
from edgecc.checkpoint.keyring import Keys
from edgecc.checkpoint.manifest import Manifest
from edgecc.config.schema import Config
from edgecc.errors import CheckpointError, ConfigError
from edgecc.learn.readout import Readout
from edgecc.store import meta
from edgecc.store.writer import Store
from edgecc.trunk.trunk import Trunk

log = logging.getLogger(__name__)


class Generations:
    def __init__(self, config: Config, store: Store, keys: Keys) -> None:
        self._config, self._store, self._keys = config, store, keys
        self._part = config.state.part
        self.unusable: dict[int, str] = {}  # those that failed a check, and why
        self.folder = config.state.generations
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._part, ignore_errors=True)

    def check_input(self) -> None:
        """ConfigError if the log holds samples of another kind or shape than configured.

        While it holds none, the input may change: stems of the other one are removed.
        """
        config, store = self._config, self._store
        wanted, known = json.dumps([config.input.kind, config.input.shape]), store.meta(meta.INPUT)
        if known == wanted:
            return
        if known is not None and store.last_row():
            raise ConfigError(
                f"input.kind and input.shape are {wanted}, the log in {config.state} holds "
                f"{known}: change them back, or give this node a new state_dir")
        stems = self.numbers()
        self.remove(stems)
        with store.transaction():
            for number in stems:
                store.put_outbox(config.topics.manifest(number), b"", retain=True)
            self.note_removed(stems)
            store.set_meta(meta.SERVING, None)
            store.set_meta(meta.SUCCESSOR, None)
            store.set_meta(meta.INPUT, wanted)

    def numbers(self) -> list[int]:
        """Oldest first."""
        return generation.numbers(self.folder)

    def path(self, number: int) -> Path:
        return self.folder / generation.name_of(number)

    def load(self, number: int) -> Generation:
        """CheckpointError where it fails a check."""
        return generation.load(self.path(number), self._keys.trusted, self._config.input)

    def usable(self, number: int) -> Generation | None:
        """As `load`; None where it fails a check, which is noted in `unusable`."""
        try:
            return self.load(number)
        except CheckpointError as error:
            log.error("generation %d is unusable: %s", number, error)
            self.unusable[number] = str(error)
            return None

    def manifests(self) -> Iterator[Manifest]:
        """Of every generation that can be read, oldest first; the signatures are not checked."""
        for number in self.numbers():
            manifest = generation.unsigned(self.path(number))
            if manifest is not None:
                yield manifest

    def save(self, manifest: Manifest, trunk: Trunk, readout: Readout, model: bytes) -> Manifest:
        """A new generation of this node."""
        generation.write(self._part, manifest=manifest, trunk=trunk, readout=readout, model=model)
        return self.take_in(self._part)

    def take_in(self, folder: Path) -> Manifest:
        """Number, sign and keep the generation in `folder`."""
        floor = self._store.meta(meta.REMOVED_THROUGH) + 1  # a number is used once
        adopted = generation.adopt(folder, self.folder, self._keys.signing, floor=floor)
        with self._store.transaction():
            self._store.set_meta(meta.made(adopted.digest), self._store.meta(meta.RENUMBERED))
        return adopted

    def take_in_once(self, folder: Path, digest: str) -> int | None:
        """Number of the generation in `folder`, which a crash may have left there or taken in."""
        if folder.exists():
            return self.take_in(folder).number
        return generation.find(self.folder, digest)

    def counts_as_now(self, digest: str) -> bool:
        """True if it is here, or was made on this log whose labels have kept their numbers."""
        return generation.find(self.folder, digest) is not None or (
            self._store.meta(meta.made(digest)) == self._store.meta(meta.RENUMBERED))

    def remove(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            shutil.rmtree(self.path(number), ignore_errors=True)

    def note_removed(self, numbers: Iterable[int]) -> None:
        """Inside a transaction: none of these numbers is used again."""
        through = max([self._store.meta(meta.REMOVED_THROUGH), *numbers])
        self._store.set_meta(meta.REMOVED_THROUGH, through)
