"""Which generation serves, which is next, and which is tried; each one's readout follows the log.

The live readout is the generation's readout plus the log after its cursor. A successor catches up
in the background, a slice at a time, while the old trunk goes on serving; then they swap.
"""

from edgecc.checkpoint import generation
from edgecc.checkpoint.manifest import Manifest
from edgecc.checkpoint.readout_file import write_snapshot
from edgecc.config.schema import PATCHES, Config
from edgecc.learn.readout import Features
from edgecc.serving.catch_up import learn_event, restart_if_unlearnt, resume, snapshot_path
from edgecc.serving.generations import Generations
from edgecc.serving.predictor import Predictor
from edgecc.serving.stems import Stems
from edgecc.store import meta
from edgecc.store.reader import LabelEvent
from edgecc.store.writer import Store

_SLICE = 64  # label events caught up with at a time


class Serving:
    def __init__(
        self, config: Config, store: Store, generations: Generations, stems: Stems
    ) -> None:
        self._config, self._spec, self._state = config, config.input, config.state
        self._store, self._generations, self._stems = store, generations, stems
        self.predictor: Predictor | None = None  # serves
        self.successor: Predictor | None = None  # serves once it knows every label
        self.candidate: Predictor | None = None  # on trial: it may never serve

    def open(self) -> None:
        """Serve what served last, or the newest valid generation; the bare stem before any."""
        self.drop_snapshot(old=True)
        numbers = self._generations.numbers()
        self.predictor = self._newest_valid(numbers)
        self._serve_new_stem()
        if self.predictor is not None:
            resume(self._state, self.predictor, self._store)
        number = self.next_number  # set: a crash interrupted the swap
        if number is not None and number in numbers and self._generations.usable(number):
            self.roll_to(number)
        new_stem = None
        if numbers and self.predictor is not None and self._stem_changed():
            new_stem = self._stems.newest(parent=self.predictor.manifest.digest).number
            self.roll_to(new_stem)
        self._record_start(new_stem)

    def _newest_valid(self, numbers: list[int]) -> Predictor | None:
        wanted = self._store.meta(meta.SERVING)
        for number in sorted(numbers, key=lambda n: (n == wanted, n), reverse=True):
            if loaded := self._generations.usable(number):
                return Predictor(loaded)
        return None

    def _stem_changed(self) -> bool:
        """True if another stem was configured at the last start."""
        return (self._store.meta(meta.STEM) or PATCHES) != self._stems.name

    def _record_start(self, new_stem: int | None) -> None:
        with self._store.transaction():
            if new_stem is not None:
                self.set_next(new_stem)
                for growth in self._store.growths.unfinished():  # they stand on the other stem
                    self._store.growths.close(growth.number)
            if self._store.meta(meta.SERVING) is None and self.predictor is not None:
                self._store.set_meta(meta.SERVING, self.number)
            self._store.set_meta(meta.STEM, self._stems.name)

    @property
    def number(self) -> int:
        """Of the generation that serves; -1 where none does yet."""
        return -1 if self.predictor is None else self.predictor.manifest.number

    @property
    def in_use(self) -> set[int]:
        """Numbers of generations that must not be pruned."""
        return {one.manifest.number for one in self._all()}

    @property
    def changing(self) -> bool:
        """True while another generation is about to serve, or is tried."""
        return self.successor is not None or self.candidate is not None

    def stop(self) -> None:
        """Serve nothing, now or next; the memory is free for another."""
        self.predictor = self.successor = self.candidate = None

    def _all(self) -> list[Predictor]:
        ones = (self.predictor, self.successor, self.candidate)
        return [one for one in ones if one is not None]

    def learn(self, event: LabelEvent, features: Features | None) -> None:
        """Learn a label just committed; one that is not next is left to `catch_up`."""
        if self.predictor is not None and event.seq == self.predictor.cursor + 1:
            learn_event(self.predictor, event, features, self._store, self._spec)

    def catch_up(self) -> bool:
        """Learn one slice of labels; True while there is more to do."""
        lagging = self.lagging
        for predictor in lagging:
            self._learn_slice(predictor)
        return bool(lagging)

    @property
    def lagging(self) -> list[Predictor]:
        """Predictors with labels still to learn."""
        return [one for one in self._all() if self._lags(one)]

    @property
    def lag(self) -> int:
        """Labels of the log that what serves has not learnt yet."""
        cursor = 0 if self.predictor is None else self.predictor.cursor
        return max(0, self._store.last_label() - cursor)

    def catch_up_fully(self) -> None:
        """Learn all labels, in what serves now."""
        while self.predictor is not None and self._lags(self.predictor):
            self._learn_slice(self.predictor)

    def _learn_slice(self, predictor: Predictor) -> None:
        for event in self._store.labels_after(predictor.cursor, _SLICE):
            learn_event(predictor, event, None, self._store, self._spec)

    def _lags(self, predictor: Predictor) -> bool:
        return predictor.cursor < self._store.last_label()

    @property
    def next_number(self) -> int | None:
        """Number of the generation that serves next, as the log has it."""
        return self._store.meta(meta.SUCCESSOR)

    def set_next(self, number: int | None) -> None:
        """Inside a transaction: write down what serves next; then `roll_to` it, or `succeed`."""
        self._store.set_meta(meta.SUCCESSOR, number)

    def set_serving(self, number: int | None) -> None:
        """Inside a transaction: write down which generation serves now; none is next."""
        self._store.set_meta(meta.SERVING, number)
        self._store.set_meta(meta.SUCCESSOR, None)

    def roll_to(self, number: int) -> None:
        """Serve generation `number` once it has caught up."""
        self.successor = self.ready(number)

    def succeed(self, candidate: Predictor, manifest: Manifest) -> None:
        """Serve what was tried, under the number that its `manifest` has here."""
        candidate.renumber_generation(manifest)
        self.successor = candidate

    def cancel_next(self) -> None:
        """Inside a transaction: no generation is next any more."""
        self.set_next(None)
        self.successor = None

    def ready(self, number: int) -> Predictor:
        """Generation `number`, to learn the log after its cursor."""
        predictor = Predictor(self._generations.load(number))
        restart_if_unlearnt(predictor, self._store)
        return predictor

    def swap(self) -> Manifest | None:
        """Serve the successor once it knows every label; its manifest if that happened."""
        if self.successor is None or self._lags(self.successor):
            return None
        self.predictor, self.successor = self.successor, None
        self.predictor.refresh()
        return self.predictor.manifest

    def save_live(self) -> Manifest:
        """Save the live readout, on the trunk that serves, as a generation of its own."""
        assert self.predictor is not None
        now, about = self.predictor.generation, self.predictor.manifest
        manifest = generation.base_manifest(
            self._config.node, self._spec, parent=about.digest, cursor=self.predictor.cursor,
            growth=about.growth, alpha=about.alpha, temperature=about.temperature,
            recipe=about.recipe, plan=about.plan, metrics=about.metrics, others=about.others,
        )
        return self._generations.save(manifest, now.trunk, self.predictor.readout, now.model)

    def try_out(self, candidate: Predictor | None) -> None:
        """Let `candidate` follow the log beside what serves; None ends it."""
        self.candidate = candidate

    def calibrate(self) -> None:
        """Measure a sensor's scale once enough windows are stored; serve the new stem at once."""
        if self._serve_new_stem():
            assert self.predictor is not None
            self.catch_up_fully()  # the labels so far are few
            self.predictor.refresh()

    def _serve_new_stem(self) -> bool:
        """Serve the last stem that follows what serves; False where none does, or a trunk grew."""
        now = None if self.predictor is None else self.predictor.manifest
        stems = [] if now is not None and now.growth else self._stems.following(now)
        if stems:
            self.predictor = Predictor(self._generations.load(stems[-1].number))
            with self._store.transaction():
                self._store.set_meta(meta.SERVING, self.number)
        return bool(stems)

    def snapshot(self) -> None:
        """Save the live readout: a start goes on from it, and what it knows may be evicted."""
        with self._store.transaction():
            self.write_snapshot()

    def write_snapshot(self) -> None:
        """Save the live readout, inside a transaction."""
        predictor = self.predictor
        if predictor is not None:
            write_snapshot(
                snapshot_path(self._state, self._store), predictor.manifest.digest,
                predictor.readout, predictor.cursor)
        self._store.set_meta(meta.SNAPSHOT, 0 if predictor is None else predictor.cursor)

    @property
    def snapshot_cursor(self) -> int:
        """Newest label that the saved live readout knows."""
        return self._store.meta(meta.SNAPSHOT)

    def drop_snapshot(self, *, old: bool = False) -> None:
        """Delete the saved live readouts; with `old`, those from before labels were renumbered."""
        keep = snapshot_path(self._state, self._store) if old else None
        for path in self._state.live_readouts():
            if path != keep:
                path.unlink()
