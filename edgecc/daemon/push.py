"""A generation that an operator sends: staged chunk by chunk, verified whole, then tried.

Of what comes over the wire only the manifest's signature is believed, and what it vouches for: a
chunk belongs where its digest says, and nowhere if nothing asks for it. At most one is staged.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from edgecc.daemon.trial import Wanted
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
from edgecc.serving.catch_up import forget
from edgecc.serving.predictor import Predictor

if TYPE_CHECKING:
    from edgecc.daemon.daemon import Daemon

log = logging.getLogger(__name__)


class Staged:
    """A folder that fills with the files of one manifest."""

    def __init__(self, folder: Path, offered: Manifest) -> None:
        self.folder, self.digest = folder, offered.digest
        with files.store_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._open = ExitStack()
        self._files = [self._open.enter_context(Assembly(folder / name, file))
                       for name, file in sorted(offered.files.items())]

    def keep(self, chunk: bytes) -> None:
        """Write it wherever it is missing."""
        digest = hashlib.sha256(chunk).hexdigest()
        for file in self._files:
            for index in file.missing():
                if file.file.chunks[index] == digest:
                    file.keep(index, chunk)

    def missing(self) -> list[str]:
        """Digests of the chunks that are not here yet."""
        found = [file.file.chunks[index] for file in self._files for index in file.missing()]
        return list(dict.fromkeys(found))

    def finish(self) -> None:
        """All chunks are here: durable once it returns."""
        for file in self._files:
            file.sync()
        self.close()

    def close(self) -> None:
        self._open.close()


class Pushing:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._root = daemon.config.state.pushed
        self._staged: Staged | None = None
        self._full: StoreError | None = None  # why the newest chunk could not be kept

    def take(self, chunk: bytes) -> None:
        if self._staged is not None:
            try:
                self._staged.keep(chunk)
            except StoreError as error:
                self._full = error

    def answer(self, command: Command) -> dict[str, Any] | None:
        """The chunks that are wanted next; None once it is tried: the trial answers."""
        self._daemon.trial.check_free()
        try:
            return self._answer(command)
        except CheckpointError as error:
            with self._daemon.store.transaction():
                self._daemon.announcer.event("push-refused", "warning", {"reason": str(error)})
            raise

    def clear(self) -> None:
        """Nothing is staged, in memory or on disk."""
        if self._staged is not None:
            self._staged.close()
        self._staged = None
        shutil.rmtree(self._root, ignore_errors=True)

    def _answer(self, command: Command) -> dict[str, Any] | None:
        text = command.args.get("manifest")
        if not isinstance(text, str):
            raise MessageError('push needs {"args": {"manifest": the text of manifest.json}}')
        envelope = text.encode()
        offered, signer = self._opened(envelope)
        staged = self._stage(offered)
        if self._full is not None:
            error, self._full = self._full, None
            raise error
        if missing := staged.missing():
            return {"wants": missing[:WINDOW], "missing": len(missing)}
        staged.finish()
        self._staged = None
        with files.store_errors(staged.folder):
            files.write(staged.folder / MANIFEST, envelope)
        self._daemon.trial.begin(self._wanted(command, staged.folder, signer))
        return None

    # --- what is trusted ---

    def _opened(self, envelope: bytes) -> tuple[Manifest, VerifyKey]:
        """What the manifest says and who vouches for it: this node, or one that it trusts."""
        keys = self._daemon.keys
        others = [signing.parse_key(key) for key in self._daemon.config.trusted_keys]
        for key in [*keys.trusted, *(key for key in others if key not in keys.chain.keys)]:
            try:
                return manifest.parse(signing.open_envelope(envelope, [key])), key
            except Untrusted:
                continue
        raise Untrusted("no valid signature by a key of this node, nor by one in its trusted_keys")

    def _stage(self, offered: Manifest) -> Staged:
        """Go on with what was staged of it, or begin; whatever else was staged is deleted."""
        if self._staged is not None and self._staged.digest == offered.digest:
            return self._staged
        size, config = sum(file.size for file in offered.files.values()), self._daemon.config
        most = min(config.disk_budget, config.memory_budget // 4)  # it is read into memory
        if size > most:
            raise Incompatible(
                f"{format_size(size)} is more than this node takes, {format_size(most)}: the less "
                "of disk_budget and a quarter of memory_budget")
        folder = self._root / offered.digest
        if not folder.exists():
            self.clear()
        self._full = None
        self._staged = Staged(folder, offered)
        return self._staged

    # --- what is tried ---

    def _wanted(self, command: Command, folder: Path, signer: VerifyKey) -> Wanted:
        daemon, spec = self._daemon, self._daemon.config.input_spec
        most = readout_dim(daemon.plan, spec)
        found = generation.load(folder, [signer], spec, most=most)
        _run(found, np.zeros(spec.model_shape, np.uint8))
        about = {"pushed": {
            "node": found.manifest.node, "generation": found.manifest.number,
            "digest": found.manifest.digest, "signed_by": key_id(signer)}}
        if signer in daemon.keys.chain.keys:
            self._check_own(found.manifest)
        else:
            folder, found = self._translated(found, signer)
        candidate = Predictor(found)
        forget(candidate, daemon.store)
        return Wanted(command, candidate, lambda: self._adopt(folder), about)

    def _adopt(self, folder: Path) -> Manifest:
        with files.store_errors(folder):
            adopted = self._daemon.serving.take_in(folder)
        self.clear()
        return adopted

    def _check_own(self, pushed: Manifest) -> None:
        """Its cursor counts labels, so they must be those of this log."""
        serving = self._daemon.serving
        here = generation.find(serving.folder, pushed.digest) is not None
        if not here and not serving.counts_as_now(pushed.digest):
            raise Incompatible(
                f"this node signed generation {pushed.number}, but not on the log that it has now: "
                "that was begun anew, or its labels were numbered anew by `unlearn --deep`")

    def _translated(self, found: Generation, signer: VerifyKey) -> tuple[Path, Generation]:
        """Another node's generation as one of this node, that knows none of its labels yet.

        What it has learnt elsewhere stays in the sums, unless samples of this node are among it,
        which would count twice.
        """
        config, pushed = self._daemon.config, found.manifest
        stem = found.trunk.stem
        if (stem and stem.digest) != self._daemon.serving.stem_digest:
            raise Incompatible(f"its stem is {stem.name if stem else 'patches'}, this node has "
                               f"`stem: {config.stem}`: both must have the same")
        theirs, mine = {key_id(signer), *pushed.others}, self._daemon.keys.chain.keys
        readout = found.readout
        if theirs & {key_id(key) for key in mine}:
            readout, theirs = Readout(found.trunk.dim), set()
        bare = not pushed.growth and config.input.kind == "image"
        about = replace(
            pushed, node=config.node, cursor=0, growth=0 if bare else ELSEWHERE,
            parent=pushed.digest, others=sorted(theirs))
        folder = self._root / "translated"
        with files.store_errors(folder):
            about = generation.write(
                folder, manifest=about, trunk=found.trunk, readout=readout, model=found.model)
        return folder, replace(found, manifest=about, readout=readout)


def _run(found: Generation, x: NDArray[np.uint8]) -> None:
    """Corrupt where its model does not make the features that its blocks have."""
    try:
        features = Predictor(found).features(x)
    except (ValueError, RuntimeError, IndexError) as error:
        raise Corrupt(f"trunk.tflite does not run: {error}") from error
    if features.shape != (found.trunk.dim,) or not np.isfinite(features).all():
        raise Corrupt(f"trunk.tflite makes {features.shape} features, or some that are not finite; "
                      f"its blocks make {found.trunk.dim}")
