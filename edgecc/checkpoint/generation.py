"""One generation: a folder with the trunk, the readout and a signed manifest.

Written whole and renamed once. It is loaded only after signature, digests, shapes and finiteness
have been checked; a folder that fails any check raises and changes nothing.
"""

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nacl.signing import SigningKey, VerifyKey
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from edgecc.checkpoint import manifest as manifests
from edgecc.checkpoint import readout_file, signing
from edgecc.checkpoint.manifest import Manifest
from edgecc.errors import CheckpointError, Corrupt, Incompatible
from edgecc.host import files
from edgecc.learn.readout import Readout
from edgecc.protocol.sample import Input
from edgecc.trunk.compile import Layer
from edgecc.trunk.model_stem import StemModel
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
    files.write(folder / "blocks.safetensors", save_tensors(_tensors(trunk)))
    files.write(folder / "readout.safetensors", save_tensors(readout_file.tensors_of(readout)))
    files.write(folder / "trunk.tflite", model or trunk.compile())
    described = replace(
        manifest, blocks=_describe_blocks(trunk), classes=list(readout.classes),
        schema=manifests.SCHEMA,
    ).with_files(folder)
    files.write(folder / MANIFEST, described.to_json())
    files.sync(folder)
    return described


def adopt(folder: Path, generations: Path, key: SigningKey, *, floor: int = 0) -> Manifest:
    """Number (from `floor` on) and sign what `write` left, and rename it among the generations.

    Idempotent: a generation with this digest that is there already is returned instead.
    """
    found = unsigned(folder) or manifests.parse(read_manifest(folder))
    known = find(generations, found.digest)
    if known is not None:
        shutil.rmtree(folder)
        return replace(found, number=known)
    number = max(max(numbers(generations), default=-1) + 1, floor)
    numbered = replace(found, number=number)
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
    """The generation in `folder`, fully checked; `spec` is the input, `most` the features that it
    must fit."""
    manifest = manifests.parse(signing.open_envelope(read_manifest(folder), trusted))
    data = {name: _checked_file(folder / name, file) for name, file in manifest.files.items()}
    return from_files(manifest, data, spec, most=most)


def from_files(
    manifest: Manifest, data: Mapping[str, bytes], spec: Input | None = None, *,
    most: int | None = None,
) -> Generation:
    """What `load` makes of files whose signature and digests are known to be right."""
    wanted = None if spec is None else {"kind": spec.kind, "shape": list(spec.shape)}
    place = f"generation {manifest.number}"
    if wanted is not None and manifest.node_input != wanted:
        raise Incompatible(f"{place} is for {manifest.node_input}, this node takes {wanted}")
    try:
        if not (math.isfinite(manifest.alpha) and math.isfinite(manifest.temperature)):
            raise Corrupt(f"{place}: alpha {manifest.alpha}, temperature {manifest.temperature}")
        trunk = _trunk(manifest, load_tensors(data["blocks.safetensors"]), data["trunk.tflite"])
        if most is not None and trunk.dim > most:
            raise Incompatible(f"{place} has {trunk.dim} features, memory_budget is for {most}")
        sums = load_tensors(data["readout.safetensors"])
        readout = readout_file.readout_from(sums, manifest.classes, trunk.dim)
    except (SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
        raise Corrupt(f"{place}: tensors do not fit the manifest: {error!r}") from error
    return Generation(manifest, trunk, data["trunk.tflite"], readout)


def read_manifest(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder} is no checkpoint: {error.strerror}") from error


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
    """A manifest still without number, files and blocks."""
    values: dict[str, Any] = {
        "parent": "", "cursor": 0, "growth": 0, "blocks": [], "classes": [], "alpha": 1e-4,
        "temperature": 8.0, "recipe": {}, "plan": {}, "created": time.time(), "number": 0,
    }
    given = {"kind": spec.kind, "shape": list(spec.shape)}
    return Manifest(node=node, node_input=given, **(values | rest))


def _tensors(trunk: Trunk) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {"input.mean": trunk.mean, "input.std": trunk.std}
    for number, layer in enumerate(trunk.layers):
        tensors |= {f"{number}.conv.{i}": conv for i, conv in enumerate(layer.convs)}
        tensors[f"{number}.bias"] = layer.bias
        if layer.mix is not None:
            tensors[f"{number}.mix"] = layer.mix
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}


def _describe_blocks(trunk: Trunk) -> list[dict[str, Any]]:
    ranges = trunk.ranges or (None,) * (len(trunk.layers) + 1)
    described: list[dict[str, Any]] = [
        {"method": method, "convs": [list(conv.shape) for conv in layer.convs],
         "pool": list(layer.pool), "grid": list(layer.grid),
         "padding": layer.padding, "root": layer.root,
         "mix": None if layer.mix is None else list(layer.mix.shape), "waves": layer.waves,
         "range": None if bounds is None else list(bounds),
         "input_range": None if ranges[0] is None else list(ranges[0])}
        for method, layer, bounds in zip(trunk.methods, trunk.layers, ranges[1:], strict=True)
    ]
    described[0]["mirrored"] = trunk.mirrored
    if trunk.stem is not None:
        described[0]["model"] = {"name": trunk.stem.name, "sha256": trunk.stem.digest}
    return described


def _trunk(manifest: Manifest, tensors: dict[str, NDArray[Any]], model: bytes) -> Trunk:
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise Corrupt(f"{name} is {tensor.dtype}, not float32, or holds NaN or infinity")
    layers = tuple(_layers(manifest, tensors))
    first = manifest.blocks[0]["input_range"]
    bounds = [first, *(block["range"] for block in manifest.blocks)]
    spec = Input(manifest.node_input["kind"], tuple(manifest.node_input["shape"]))
    channels = spec.model_shape[:1]
    if not tensors["input.mean"].shape == tensors["input.std"].shape == channels:
        raise Corrupt(f"input.mean and input.std are not of {channels} channels")
    stem = manifest.blocks[0].get("model")
    return Trunk(
        shape=spec.model_shape, mean=tensors["input.mean"], std=tensors["input.std"],
        layers=layers,
        ranges=None if first is None else tuple((float(lo), float(hi)) for lo, hi in bounds),
        methods=tuple(str(block["method"]) for block in manifest.blocks),
        stem=stem and StemModel(str(stem["name"]), str(stem["sha256"]), model),
        mirrored=bool(manifest.blocks[0].get("mirrored", False)),
    )


def _layers(manifest: Manifest, tensors: dict[str, NDArray[Any]]) -> Iterator[Layer]:
    for number, block in enumerate(manifest.blocks):
        convs = tuple(tensors[f"{number}.conv.{i}"] for i in range(len(block["convs"])))
        if [list(conv.shape) for conv in convs] != block["convs"]:
            raise Corrupt(f"block {number}: shapes differ from the manifest's")
        mix = tensors[f"{number}.mix"] if block.get("mix") else None
        if mix is not None and list(mix.shape) != block["mix"]:
            raise Corrupt(f"block {number}: mixes {mix.shape}, the manifest says {block['mix']}")
        pool, grid, waves = tuple(block["pool"]), tuple(block["grid"]), block.get("waves", 0)
        if type(waves) is not int or not 0 <= waves <= math.prod(grid):
            raise Corrupt(f"block {number}: {waves} frequencies of a grid {grid}")
        yield Layer(
            convs=convs, bias=tensors[f"{number}.bias"], pool=pool, grid=grid,
            padding=block.get("padding", "same"), root=bool(block.get("root", True)), mix=mix,
            waves=waves,
        )


def _checked_file(path: Path, file: manifests.File) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Corrupt(f"{path}: {error.strerror}") from error
    found = manifests.describe(data)
    if found != file:
        raise Corrupt(
            f"{path}: SHA-256 {found.sha256[:16]}…, manifest says {str(file.sha256)[:16]}…"
        )
    return data


def unsigned(folder: Path) -> Manifest | None:
    """A manifest of this node's own, its signature not looked at; None where it is damaged."""
    try:
        return manifests.parse(signing.payload_of(read_manifest(folder)))
    except CheckpointError:
        return None
