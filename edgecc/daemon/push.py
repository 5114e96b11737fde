"""A generation that an operator sends: staged chunk by chunk, verified whole, then tried.

Only the signed manifest is believed, and what it vouches for: a chunk goes where its digest
belongs, and is dropped if the manifest does not name it. At most one generation is staged.
"""

import hashlib
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nacl.signing import VerifyKey
from numpy.typing import NDArray

from edgecc.checkpoint import generation, manifest, signing
from edgecc.checkpoint.chunks import Assembly
from edgecc.checkpoint.generation import MANIFEST, Generation
from edgecc.checkpoint.manifest import ELSEWHERE, Manifest
from edgecc.checkpoint.signing import key_id
from edgecc.checkpoint.transfer import WINDOW
from edgecc.config.units import format_size
from edgecc.daemon.node import Node
from edgecc.daemon.trial import Trial, Wanted
from edgecc.errors import (
    CheckpointError,
    Corrupt,
    Incompatible,
    MessageError,
    StoreError,
    Untrusted,
)
from edgecc.host import files
from edgecc.learn.readout import Readout
from edgecc.plan.plan import readout_dim
from edgecc.protocol.messages import Command
from edgecc.serving.catch_up import restart_if_unlearnt
from edgecc.serving.predictor import Predictor

log = logging.getLogger(__name__)


class Staged:
    """A folder that fills with the files of one manifest."""

    def __init__(self, folder: Path, offered: Manifest) -> None:
        self.folder, self.digest = folder, offered.digest
        with files.store_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._files = [Assembly(folder / name, file)
                       for name, file in sorted(offered.files.items())]

    def keep(self, chunk: bytes) -> None:
        """Write a chunk wherever it is missing."""
        digest = hashlib.sha256(chunk).hexdigest()
        for file in self._files:
            for index in file.missing():
                if file.file.chunks[index] == digest:
                    file.keep(index, chunk)

    def missing(self) -> list[str]:
        """Digests of the chunks that are not here yet."""
        digests = [file.file.chunks[index] for file in self._files for index in file.missing()]
        return list(dict.fromkeys(digests))

    def finish(self) -> None:
        """All chunks are here: durable once it returns."""
        for file in self._files:
            file.sync()
        self.close()

    def close(self) -> None:
        for file in self._files:
            file.close()


class Push:
    def __init__(self, node: Node, trial: Trial) -> None:
        self._node, self._trial = node, trial
        self._root = node.config.state.pushed
        self._staged: Staged | None = None
        self._failure: StoreError | None = None  # why the newest chunk could not be kept

    def take(self, chunk: bytes) -> None:
        """Keep a chunk that came; an error of the disk is the next answer."""
        if self._staged is not None:
            try:
                self._staged.keep(chunk)
            except StoreError as error:
                self._failure = error

    def answer(self, command: Command) -> dict[str, Any] | None:
        """The chunks that are wanted next; None once all are here: the trial answers."""
        self._trial.check_free()
        try:
            return self._answer(command)
        except CheckpointError as error:
            self._node.events.note("push-refused", "warning", {"reason": str(error)})
            raise

    def clear(self) -> None:
        """Delete what is staged."""
        self.close()
        shutil.rmtree(self._root, ignore_errors=True)

    def close(self) -> None:
        """Close what is staged; it stays on disk, and a later push goes on with it."""
        if self._staged is not None:
            self._staged.close()
        self._staged = None

    def _answer(self, command: Command) -> dict[str, Any] | None:
        text = command.args.get("manifest")
        if not isinstance(text, str):
            raise MessageError('push needs {"args": {"manifest": the text of manifest.json}}')
        envelope = text.encode()
        offered, signer = self._opened(envelope)
        staged = self._stage(offered)
        if self._failure is not None:
            error, self._failure = self._failure, None
            raise error
        if missing := staged.missing():
            return {"wants": missing[:WINDOW], "missing": len(missing)}
        staged.finish()
        self._staged = None
        with files.store_errors(staged.folder):
            files.write(staged.folder / MANIFEST, envelope)
        self._trial.begin(self._wanted(command, staged.folder, signer))
        return None

    def _opened(self, envelope: bytes) -> tuple[Manifest, VerifyKey]:
        """The manifest, and the key that signed it: of this node, or one that it trusts."""
        keys = self._node.keys
        others = [signing.parse_key(key) for key in self._node.config.trusted_keys]
        for key in [*keys.trusted, *(key for key in others if key not in keys.chain.keys)]:
            try:
                return manifest.parse(signing.open_envelope(envelope, [key])), key
            except Untrusted:
                continue
        raise Untrusted("no valid signature by a key of this node, nor by one in its trusted_keys")

    def _stage(self, offered: Manifest) -> Staged:
        """Go on with what is staged of this generation, or delete what is and begin."""
        if self._staged is not None and self._staged.digest == offered.digest:
            return self._staged
        size, config = sum(file.size for file in offered.files.values()), self._node.config
        most = min(config.disk_budget, config.memory_budget // 4)  # it is read into memory
        if size > most:
            raise Incompatible(
                f"{format_size(size)} is more than this node takes, {format_size(most)}: the less "
                "of disk_budget and a quarter of memory_budget")
        folder = self._root / offered.digest
        if not folder.exists():
            self.clear()
        self._failure = None
        self._staged = Staged(folder, offered)
        return self._staged

    def _wanted(self, command: Command, folder: Path, signer: VerifyKey) -> Wanted:
        node, spec = self._node, self._node.config.input
        pushed = generation.load(folder, [signer], spec, most=readout_dim(node.plan, spec))
        _run(pushed, np.zeros(spec.model_shape, np.uint8))
        about = {"pushed": {
            "node": pushed.manifest.node, "generation": pushed.manifest.number,
            "digest": pushed.manifest.digest, "signed_by": key_id(signer)}}
        if signer in node.keys.chain.keys:
            self._check_own(pushed.manifest)
        else:
            folder, pushed = self._translated(pushed, signer)
        candidate = Predictor(pushed)
        restart_if_unlearnt(candidate, node.store)
        return Wanted(command, candidate, lambda: self._adopt(folder), about)

    def _adopt(self, folder: Path) -> Manifest:
        with files.store_errors(folder):
            adopted = self._node.generations.take_in(folder)
        self.clear()
        return adopted

    def _check_own(self, pushed: Manifest) -> None:
        """Incompatible unless its cursor, a number of labels, counts those of this log."""
        if not self._node.generations.counts_as_now(pushed.digest):
            raise Incompatible(
                f"this node signed generation {pushed.number}, but not on the log that it has now: "
                "that is a new one, or its labels were renumbered by `unlearn --deep`")

    def _translated(self, pushed: Generation, signer: VerifyKey) -> tuple[Path, Generation]:
        """Another node's generation as one of this node, before it learns this node's labels.

        What it has learnt elsewhere stays in its readout, unless samples of this node are among
        it: they would count twice.
        """
        config, about = self._node.config, pushed.manifest
        stem = pushed.trunk.stem
        if (stem and stem.digest) != self._node.stems.digest:
            raise Incompatible(f"its stem is {stem.name if stem else 'patches'}, this node has "
                               f"`stem: {config.stem}`: both must have the same")
        theirs, mine = {key_id(signer), *about.others}, self._node.keys.chain.keys
        readout = pushed.readout
        if theirs & {key_id(key) for key in mine}:
            readout, theirs = Readout(pushed.trunk.dim), set()
        bare = not about.growth and config.input.kind == "image"
        about = replace(
            about, node=config.node, cursor=0, growth=0 if bare else ELSEWHERE,
            parent=about.digest, others=sorted(theirs))
        folder = self._root / "translated"
        with files.store_errors(folder):
            about = generation.write(
                folder, manifest=about, trunk=pushed.trunk, readout=readout, model=pushed.model)
        return folder, replace(pushed, manifest=about, readout=readout)


def _run(pushed: Generation, x: NDArray[np.uint8]) -> None:
    """Corrupt unless its model makes the features that its blocks have."""
    try:
        features = Predictor(pushed).features(x)
    except (ValueError, RuntimeError, IndexError) as error:
        raise Corrupt(f"trunk.tflite does not run: {error}") from error
    if features.shape != (pushed.trunk.dim,) or not np.isfinite(features).all():
        raise Corrupt(f"trunk.tflite makes {features.shape} features, or some that are not finite; "
                      f"its blocks make {pushed.trunk.dim}")
