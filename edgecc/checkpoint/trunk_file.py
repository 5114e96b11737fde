"""A trunk as the tensors of blocks.safetensors and the manifest's description of its blocks."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecc.checkpoint.manifest import Manifest
from edgecc.errors import Corrupt
from edgecc.protocol.sample import Input
from edgecc.trunk.compile import Layer, Whole
from edgecc.trunk.model_stem import StemModel
from edgecc.trunk.trunk import Trunk
from edgecc.trunk.value_features import ValueFeatures
from edgecc.trunk.window_features import WindowFeatures


def tensors_of(trunk: Trunk) -> dict[str, NDArray[Any]]:
    """Everything of the trunk that is an array, float32."""
    tensors: dict[str, NDArray[Any]] = {"input.mean": trunk.mean, "input.std": trunk.std}
    for number, layer in enumerate(trunk.layers):
        tensors |= {f"{number}.conv.{i}": conv for i, conv in enumerate(layer.convs)}
        tensors[f"{number}.bias"] = layer.bias
        if layer.mix is not None:
            tensors[f"{number}.mix"] = layer.mix
    if trunk.whole is not None:
        tensors |= {f"whole.{name}": tensor for name, tensor in trunk.whole.tensors.items()}
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}


def describe(trunk: Trunk) -> list[dict[str, Any]]:
    """What a manifest says of each layer, stem first."""
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
    if trunk.whole is not None:
        described[0]["whole"] = {
            name: list(tensor.shape) for name, tensor in trunk.whole.tensors.items()}
    if trunk.stem is not None:
        described[0]["model"] = {"name": trunk.stem.name, "sha256": trunk.stem.digest}
    return described


def trunk_from(manifest: Manifest, tensors: dict[str, NDArray[Any]], model: bytes) -> Trunk:
    """The trunk that the manifest describes; Corrupt, KeyError or ValueError if they do not fit."""
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
        whole=_whole(manifest.blocks[0].get("whole"), spec.model_shape, tensors),
    )


def _whole(
    described: dict[str, list[int]] | None, shape: tuple[int, int, int],
    tensors: dict[str, NDArray[Any]],
) -> Whole | None:
    if described is None:
        return None
    for name, size in described.items():
        if list(tensors[f"whole.{name}"].shape) != size:
            raise Corrupt(f"whole.{name}: shape differs from the manifest's")
    channels, _, time = shape
    if "conditions" in described:
        return ValueFeatures(**{name: tensors[f"whole.{name}"] for name in described})
    kernels = tuple(tensors[f"whole.kernels.{i}"] for i in range(len(described) - 1))
    return WindowFeatures(kernels, tensors["whole.thresholds"], channels, time)


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
