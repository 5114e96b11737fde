"""One generation: a folder with the trunk, the readout and a signed manifest.

Written whole and renamed once. It is loaded only after signature, digests, shapes and finiteness
have been checked; a folder that fails any check raises and changes nothing.
"""

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey, VerifyKey
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from edgecc.checkpoint import manifest as manifests
from edgecc.checkpoint import readout_file, signing, trunk_file
from edgecc.checkpoint.manifest import Manifest
from edgecc.errors import CheckpointError, Corrupt, Incompatible
from edgecc.host import files
from edgecc.learn.readout import Readout
from edgecc.protocol.sample import Input
from edgecc.trunk.trunk import Trunk

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Generation:
    manifest: Manifest
    trunk: Trunk
    model: bytes
    readout: Readout


def write(
    folder: Path, *, manifest: Manifest, trunk: Trunk, readout: Readout, model: bytes | None = None
) -> Manifest:
    """Write an unsigned generation into a new `folder`; returns its manifest with the files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files.write(folder / "blocks.safetensors", save_tensors(trunk_file.tensors_of(trunk)))
    files.write(folder / "readout.safetensors", save_tensors(readout_file.tensors_of(readout)))
    files.write(folder / "trunk.tflite", model or trunk.compile())
    described = replace(
        manifest, blocks=trunk_file.describe(trunk), classes=list(readout.classes),
        schema=manifests.SCHEMA,
    ).with_files(folder)
    files.write(folder / MANIFEST, described.to_json())
    files.sync(folder)
    return described


def adopt(folder: Path, generations: Path, key: SigningKey, *, floor: int = 0) -> Manifest:
    """Number (from `floor` on) and sign what `write` left, and rename it among the generations.

    Idempotent: a generation with this digest that is there already is returned instead.
    """
    written = unsigned(folder) or manifests.parse(read_manifest(folder))
    known = find(generations, written.digest)
    if known is not None:
        shutil.rmtree(folder)
        return replace(written, number=known)
    number = max(max(numbers(generations), default=-1) + 1, floor)
    numbered = replace(written, number=number)
    signed = folder / "signed.part"
    files.write(signed, signing.sign(numbered.to_json(), key))
    signed.replace(folder / MANIFEST)  # after a crash: with or without its signature, but whole
    files.rename(folder, generations / name_of(numbered.number))
    return numbered


def find(generations: Path, digest: str) -> int | None:
    """Number of the generation with this digest."""
    for number in reversed(numbers(generations)):
        known = unsigned(generations / name_of(number))
        if known is not None and known.digest == digest:
            return number
    return None


def load(
    folder: Path, trusted: list[VerifyKey], spec: Input | None = None, *, most: int | None = None
) -> Generation:
    """The generation in `folder`, fully checked: it must be for input `spec`, where that is given,
    and have at most `most` features."""
    manifest = manifests.parse(signing.open_envelope(read_manifest(folder), trusted))
    data = {name: _checked_file(folder / name, file) for name, file in manifest.files.items()}
    wanted = None if spec is None else {"kind": spec.kind, "shape": list(spec.shape)}
    place = f"generation {manifest.number}"
    if wanted is not None and manifest.node_input != wanted:
        raise Incompatible(f"{place} is for {manifest.node_input}, this node takes {wanted}")
    with _fitting(manifest):
        trunk, sums = _tensors(manifest, data)
        if most is not None and trunk.dim > most:
            raise Incompatible(f"{place} has {trunk.dim} features, memory_budget is for {most}")
        readout = readout_file.readout_from(sums, manifest.classes, trunk.dim)
    return Generation(manifest, trunk, data["trunk.tflite"], readout)


def check(manifest: Manifest, data: Mapping[str, bytes]) -> None:
    """Refuse what `load` would refuse of files whose signature and digests are known to be right.

    In less time: the sums stay packed.
    """
    with _fitting(manifest):
        trunk, sums = _tensors(manifest, data)
        readout_file.check(sums, manifest.classes, trunk.dim)


@contextmanager
def _fitting(manifest: Manifest) -> Iterator[None]:
    """Corrupt for tensors that are not those of the manifest."""
    try:
        yield
    except (SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
        raise Corrupt(f"generation {manifest.number}: tensors do not fit the manifest: "
                      f"{error!r}") from error


def _tensors(
    manifest: Manifest, data: Mapping[str, bytes]
) -> tuple[Trunk, dict[str, NDArray[Any]]]:
    """The trunk, and the tensors of the readout."""
    if not (math.isfinite(manifest.alpha) and math.isfinite(manifest.temperature)):
        raise Corrupt(f"generation {manifest.number}: alpha {manifest.alpha}, temperature "
                      f"{manifest.temperature}")
    blocks = load_tensors(data["blocks.safetensors"])
    trunk = trunk_file.trunk_from(manifest, blocks, data["trunk.tflite"])
    return trunk, load_tensors(data["readout.safetensors"])


def read_manifest(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder} is not a checkpoint: {error.strerror}") from error


def unsigned(folder: Path) -> Manifest | None:
    """The manifest of a generation of this node, without a look at its signature; None where it
    is damaged."""
    try:
        return manifests.parse(signing.payload_of(read_manifest(folder)))
    except CheckpointError:
        return None


def numbers(generations: Path) -> list[int]:
    """Numbers of the generations here, oldest first."""
    return sorted(int(path.name) for path in generations.iterdir() if path.name.isdigit())


def name_of(number: int) -> str:
    return f"{number:06d}"


def prune(generations: Path, keep: int, needed: set[int]) -> list[int]:
    """Delete all but the newest `keep` and the `needed` ones; returns the numbers deleted."""
    old = [number for number in numbers(generations)[:-keep] if number not in needed]
    for number in old:
        shutil.rmtree(generations / name_of(number))
    return old


def base_manifest(node: str, spec: Input, **rest: Any) -> Manifest:
    """A manifest that has no number, files and blocks yet."""
    values: dict[str, Any] = {
        "parent": "", "cursor": 0, "growth": 0, "blocks": [], "classes": [], "alpha": 1e-4,
        "temperature": 8.0, "recipe": {}, "plan": {}, "created": time.time(), "number": 0,
    }
    given = {"kind": spec.kind, "shape": list(spec.shape)}
    return Manifest(node=node, node_input=given, **(values | rest))


def _checked_file(path: Path, file: manifests.File) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Corrupt(f"{path}: {error.strerror}") from error
    here = manifests.describe(data)
    if here != file:
        raise Corrupt(
            f"{path}: SHA-256 {here.sha256[:16]}…, manifest says {str(file.sha256)[:16]}…")
    return data
