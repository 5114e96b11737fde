"""Which generation serves, and how its readout keeps up with the log.

The live readout is the generation's readout plus the log after its cursor. A successor catches up
in the background, a slice at a time, while the old trunk goes on serving; then they swap.
"""

import logging
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgecc.checkpoint import generation
from edgecc.checkpoint import snapshot as known
from edgecc.checkpoint.generation import Generation
from edgecc.checkpoint.keyring import Keys
from edgecc.checkpoint.manifest import Manifest
from edgecc.config.schema import PATCHES, Config
from edgecc.errors import CheckpointError
from edgecc.learn.readout import Features, Readout
from edgecc.plan.plan import Plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.serving.catch_up import forget, learn_event, revive, snapshot
from edgecc.serving.predictor import Predictor
from edgecc.store import meta
from edgecc.store.reader import LabelEvent
from edgecc.store.writer import Store
from edgecc.trunk.model_stem import Stem
from edgecc.trunk.trunk import Trunk

log = logging.getLogger(__name__)

_SLICE = 64  # label events caught up with at a time
SCALED_ON = (1, 8, 64)  # sensor windows after which the input's scale is measured (again)


class Serving:
    """The node's generations on disk, the one in use, and the one about to be."""

    def __init__(
        self, config: Config, plan: Plan, store: Store, keys: Keys, stem: Stem | None
    ) -> None:
        self._stem = stem
        self._config, self._plan, self._store, self._keys = config, plan, store, keys
        self._spec = config.input_spec
        self.folder = config.state.generations
        self.folder.mkdir(parents=True, exist_ok=True)
        self.predictor: Predictor | None = None
        self.successor: Predictor | None = None
        self.candidate: Predictor | None = None  # learns the log too, and may never serve
        self.stem_changed = False  # true at a start with another stem than before
        self.unusable: dict[int, str] = {}  # generations that failed their checks at the start

    def open(self) -> None:
        """Serve the newest valid generation; the bare stem where there is none yet."""
        self.drop_snapshot(old=True)
        shutil.rmtree(self._config.state.part, ignore_errors=True)
        wanted = self._store.meta(meta.SERVING)
        numbers = generation.numbers(self.folder)
        for number in sorted(numbers, key=lambda n: (n == wanted, n), reverse=True):
            try:
                self.predictor = Predictor(self.load(number))
                break
            except CheckpointError as error:
                log.error("generation %d is unusable: %s", number, error)
                self.unusable[number] = str(error)
        if self.predictor is None and self._spec.kind == "image":
            self._serve_stem(scaled_on=0)
        self._rescale()
        if self.predictor is not None:
            revive(self._config.state, self.predictor, self._store)
        if (follower := self.next_number) is not None and follower in numbers:
            self._resume_swap(follower)
        changed = numbers and (self._store.meta(meta.STEM) or PATCHES) != self.stem
        if changed and self.predictor is not None:
            self.stem_changed = True
            counts = [n for n in SCALED_ON if n <= self._store.stored()]
            scaled_on = max(counts, default=0) if self._spec.kind == "sensor" else 0
            stem = self._new_stem(scaled_on, self.predictor.generation.manifest.digest)
            self.successor = Predictor(self.load(stem.number))  # once it has learnt the log

    def _resume_swap(self, number: int) -> None:
        """Go on with a swap that a crash interrupted."""
        try:
            self.roll_to(number)
        except CheckpointError as error:
            log.error("generation %d is unusable: %s", number, error)

    def load(self, number: int) -> Generation:
        return generation.load(self.path(number), self._keys.trusted, self._spec)

    def path(self, number: int) -> Path:
        return self.folder / generation.name_of(number)

    @property
    def stem(self) -> str:
        """Which stem is configured, as it is built: patches, or the digest of a model."""
        if self._stem is not None:
            return self._stem.model.digest
        if not self._plan.blocks:
            return f"{PATCHES} that nothing stands on"
        return f"{PATCHES} mirrored" if self._config.grow.mirror else PATCHES

    @property
    def stem_digest(self) -> str | None:
        """Of the model that is the configured stem; None for patches."""
        return None if self._stem is None else self._stem.model.digest

    @property
    def needed(self) -> set[int]:
        """Generations in use, which must not be pruned."""
        used = (self.predictor, self.successor, self.candidate)
        return {one.generation.manifest.number for one in used if one is not None}

    @property
    def number(self) -> int:
        return -1 if self.predictor is None else self.predictor.generation.manifest.number

    # --- keeping up with labels ---

    def learn(self, event: LabelEvent, features: Features | None) -> None:
        """A label just committed; one that is out of turn waits for `catch_up`."""
        if self.predictor is not None and event.seq == self.predictor.cursor + 1:
            learn_event(self.predictor, event, features, self._store, self._spec)

    def catch_up(self) -> bool:
        """One slice of labels not yet learnt; True while there is more to do."""
        behind = self.behind
        for predictor in behind:
            self._learn_slice(predictor)
        return bool(behind)

    @property
    def behind(self) -> list[Predictor]:
        """Those that do not know every label yet."""
        ones = (self.predictor, self.successor, self.candidate)
        return [one for one in ones if one is not None and self._behind(one)]

    def catch_up_fully(self) -> None:
        """All labels, in what serves now."""
        while self.predictor is not None and self._behind(self.predictor):
            self._learn_slice(self.predictor)

    def _learn_slice(self, predictor: Predictor) -> None:
        for event in self._store.labels_after(predictor.cursor, _SLICE):
            learn_event(predictor, event, None, self._store, self._spec)

    @property
    def next_number(self) -> int | None:
        """Number of the generation that serves next, as the log has it."""
        return self._store.meta(meta.SUCCESSOR)

    def set_next(self, number: int | None) -> None:
        """Write down which generation serves next, inside a transaction: a crash changes nothing
        about it. `roll_to` or `take_turn` follows the commit; None cancels it, and `cancel_next`
        follows."""
        self._store.set_meta(meta.SUCCESSOR, number)

    def cancel_next(self) -> None:
        self.successor = None

    def set_serving(self, number: int | None) -> None:
        """Write down which generation serves now, inside a transaction; none is next."""
        self._store.set_meta(meta.SERVING, number)
        self._store.set_meta(meta.SUCCESSOR, None)

    def swap(self) -> Manifest | None:
        """Serve the successor once it knows every label; its manifest where that happened."""
        if self.successor is None or self._behind(self.successor):
            return None
        self.predictor, self.successor = self.successor, None
        self.predictor.refresh()
        return self.predictor.generation.manifest

    def _behind(self, predictor: Predictor) -> bool:
        return predictor.cursor < self._store.last_label()

    # --- new generations ---

    def adopt(self, candidate: Path, digest: str) -> int | None:
        """Number of what the learner left in `candidate`, signed now or before a crash."""
        if candidate.exists():
            return self.take_in(candidate).number
        return generation.find(self.folder, digest)

    def roll_to(self, number: int) -> Manifest:
        """Serve generation `number` again, once it has caught up."""
        self.successor = self.ready(number)
        return self.successor.generation.manifest

    def ready(self, number: int) -> Predictor:
        """Generation `number`, to learn the log after its cursor."""
        predictor = Predictor(self.load(number))
        forget(predictor, self._store)
        return predictor

    def take_turn(self, candidate: Predictor, manifest: Manifest) -> None:
        """Serve what has been tried, under the number that its `manifest` has here."""
        candidate.generation = replace(candidate.generation, manifest=manifest)
        self.successor = candidate

    def remove(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            shutil.rmtree(self.path(number), ignore_errors=True)

    def save_live(self) -> Manifest:
        """The live readout as a generation of its own, on the trunk that serves."""
        assert self.predictor is not None
        now, readout = self.predictor.generation, self.predictor.readout
        manifest = generation.base_manifest(
            self._config.node, self._spec, parent=now.manifest.digest,
            cursor=self.predictor.cursor, growth=now.manifest.growth, alpha=now.manifest.alpha,
            temperature=now.manifest.temperature, recipe=now.manifest.recipe,
            plan=now.manifest.plan, metrics=now.manifest.metrics, others=now.manifest.others,
        )
        return self._publishable(manifest, now.trunk, readout, now.model)

    def calibrate(self) -> bool:
        """Measure a sensor's scale on its first windows; True where the stem was made anew."""
        rescaled = self._rescale()
        if rescaled:  # predictions go on: the labels so far are few
            assert self.predictor is not None
            self.catch_up_fully()
            self.predictor.refresh()
        return rescaled

    def _rescale(self) -> bool:
        """Serve the stems that are due by the windows stored; made, unless they are there."""
        now = None if self.predictor is None else self.predictor.generation.manifest
        if self._spec.kind != "sensor" or (now is not None and now.growth):
            return False
        before = 0 if now is None else int(now.recipe["scaled_on"])
        if before == SCALED_ON[-1]:
            return False
        due = [count for count in SCALED_ON if before < count <= self._store.stored()]
        for count in due:
            self._serve_stem(scaled_on=count)
        return bool(due)

    def _serve_stem(self, scaled_on: int) -> None:
        parent = "" if self.predictor is None else self.predictor.generation.manifest.digest
        self.predictor = Predictor(self.load(self._new_stem(scaled_on, parent).number))
        with self._store.transaction():
            self._store.set_meta(meta.SERVING, self.number)

    def new_stems(self, after: Manifest | None) -> list[Manifest]:
        """The stems that follow generation `after`, measured on what the log holds now."""
        counts = [0] if after is None else []
        if self._spec.kind == "sensor":
            before = 0 if after is None else int(after.recipe["scaled_on"])
            counts = [count for count in SCALED_ON if before < count <= self._store.stored()]
        stems: list[Manifest] = []
        for count in counts:
            after = self._new_stem(count, "" if after is None else after.digest)
            stems.append(after)
        return stems

    def _new_stem(self, scaled_on: int, parent: str) -> Manifest:
        trunk = stem_trunk(
            self._plan, self._spec, self._config.seed, self._stem,
            mirrored=self._config.grow.mirror)
        if scaled_on:
            payloads, last = self._store.first_payloads(scaled_on)
            trunk = self._scaled(trunk, payloads)
            with self._store.transaction():
                self._store.set_meta(meta.scaled_on(scaled_on), last)
        manifest = generation.base_manifest(
            self._config.node, self._spec, parent=parent, plan=self._plan.describe(),
            recipe={"seed": self._config.seed, "scaled_on": scaled_on},
        )
        return self._publishable(manifest, trunk, Readout(trunk.dim), trunk.compile())

    def _scaled(self, trunk: Trunk, payloads: Iterable[bytes]) -> Trunk:
        windows = np.stack([self._spec.unpack(packed) for packed in payloads])
        std = windows.std(axis=(0, 2, 3))
        return replace(
            trunk, mean=windows.mean(axis=(0, 2, 3)).astype(np.float32),
            std=np.where(std > 0, std, 1.0).astype(np.float32),
        )

    def _publishable(
        self, manifest: Manifest, trunk: Trunk, readout: Readout, model: bytes
    ) -> Manifest:
        part = self._config.state.part
        generation.write(part, manifest=manifest, trunk=trunk, readout=readout, model=model)
        return self.take_in(part)

    def take_in(self, folder: Path) -> Manifest:
        """Number, sign and keep the generation in `folder`, and note how its labels count."""
        floor = self._store.meta(meta.REMOVED_THROUGH) + 1  # a number is used once
        adopted = generation.adopt(folder, self.folder, self._keys.signing, floor=floor)
        with self._store.transaction():
            self._store.set_meta(
                meta.made(adopted.digest), self._store.meta(meta.RENUMBERED))
        return adopted

    def counts_as_now(self, digest: str) -> bool:
        """True where it was made on this log, and the labels have kept their numbers since."""
        return self._store.meta(meta.made(digest)) == self._store.meta(meta.RENUMBERED)

    # --- a quick start ---

    def save_snapshot(self) -> None:
        """The live readout's sums, so that the next start need not replay the log."""
        if self.predictor is None:
            return
        known.write(
            snapshot(self._config.state, self._store), self.predictor.generation.manifest.digest,
            self.predictor.readout, self.predictor.cursor)

    def drop_snapshot(self, *, old: bool = False) -> None:
        """Delete the saved live readout; only those of labels numbered otherwise, where `old`."""
        keep = snapshot(self._config.state, self._store) if old else None
        for path in self._config.state.live_readouts():
            if path != keep:
                path.unlink()
