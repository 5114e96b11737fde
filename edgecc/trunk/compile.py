"""Compiles frozen layers to a .tflite flatbuffer, in milliseconds and without TensorFlow.

float32, or int8 inside with float32 at both ends. The same layers give the same bytes, and daemon
and learner compute features with the same model. Layers, grids or ranges that do not fit together
are a ValueError that says the numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgecc.learn.geometry import pool_window
from edgecc.trunk.tflite_writer import Floats, Graph, Quantization, Tensor, int8_range
from edgecc.trunk.truncate import STEM, truncated
from edgecc.trunk.value_features import ValueFeatures
from edgecc.trunk.window_features import WindowFeatures

Whole = WindowFeatures | ValueFeatures


@dataclass(frozen=True)
class Layer:
    """One frozen convolution: conv (stride 1), bias, ReLU, max-pool (VALID)."""

    # Kernels (O_i, I, kh, kw) in torch's order. Several make a CoConv: all read the same input,
    # entry i with dilation i + 1, and their outputs are concatenated on channels.
    convs: tuple[Floats, ...]
    bias: Floats  # (O,) over the concatenated outputs
    pool: tuple[int, int]  # window and stride of the max-pool; (1, 1) is none
    grid: tuple[int, int]  # the map is average-pooled to this for the layer's part of the features
    padding: Literal["same", "valid"] = "same"  # valid: a kernel as large as the map is dense
    root: bool = True  # features are square roots of the pooled map, which suits untrained layers
    mix: Floats | None = None  # (M, O) mixes each cell's features, after the root, to M of any sign
    waves: int = 0  # how many of the grid's lowest spatial frequencies are kept; 0 keeps its cells

    @property
    def dim(self) -> int:
        """Features of this layer."""
        channels = len(self.bias if self.mix is None else self.mix)
        return channels * (self.waves or math.prod(self.grid))


def compile_trunk(
    layers: Sequence[Layer],
    *,
    input_shape: tuple[int, int, int],
    ranges: Sequence[tuple[float, float]] | None = None,
    output: Literal["features", "map"] = "features",
    stem: bytes | None = None,
    mirrored: bool = False,
    whole: Whole | None = None,
) -> bytes:
    """A model from one float32 sample (1, H, W, C) to one float32 output; input_shape is (C, H, W).

    "features" is (1, d): each layer's average-pooled map in turn, or its square root, flattened as
    (gh, gw, C), channels fastest, so that no transpose is needed; or mixed, as (M, waves), where
    the layer says so. "map" is the last layer's map after its pool, (1, h, w, C).

    ranges: None for float32; for int8 inside, the smallest and largest value that enters the first
        layer, then of each layer's map after ReLU and pool.
    stem: a model that runs before the layers, up to its tensor `stem`.
    mirrored: pooled maps are means over the sample and its mirror image, left to right.
    whole: computes more features, of the whole sample; they stand first.
    Raises ValueError for what does not fit together.
    """
    _check_counts(layers, ranges)
    quants = [None] * (len(layers) + 1) if ranges is None else [int8_range(*r) for r in ranges]
    graph, first, entering = _below(input_shape, stem)
    below = entering
    if mirrored and output == "features":
        entering = graph.concatenate([entering, graph.reverse(entering, 2)], axis=0)
    maps = [graph.quantize(entering, quants[0])]
    for layer, quant in zip(layers, quants[1:], strict=True):
        maps.append(_layer(graph, maps[-1], layer, quant))
    if output == "map":
        return graph.finish(first, graph.dequantize(maps[-1]))
    parts = [_features(graph, a, layer) for a, layer in zip(maps[1:], layers, strict=True)]
    if whole is not None:
        parts.insert(0, whole.append(graph, below))
    return graph.finish(first, graph.concatenate(parts))


def _below(input_shape: tuple[int, int, int], stem: bytes | None) -> tuple[Graph, Tensor, Tensor]:
    """The graph below the layers, its input, and what enters the first layer."""
    if stem is None:
        channels, height, width = input_shape
        graph = Graph()
        first = graph.tensor((1, height, width, channels))
        return graph, first, first
    below = truncated(stem, STEM)
    return below.graph, below.first, below.last


def _check_counts(layers: Sequence[Layer], ranges: Sequence[tuple[float, float]] | None) -> None:
    if not layers:
        raise ValueError("no layers to compile: give at least one")
    if ranges is not None and len(ranges) != len(layers) + 1:
        raise ValueError(f"{len(ranges)} ranges for {len(layers)} layers: give the input's too")


def _layer(graph: Graph, x: Tensor, layer: Layer, quant: Quantization | None) -> Tensor:
    outputs = [kernels.shape[0] for kernels in layer.convs]
    if layer.bias.shape != (sum(outputs),):
        raise ValueError(f"bias {layer.bias.shape} for convolutions of {outputs} outputs")
    quant = _map_quant(layer, x, quant)
    biases = np.split(layer.bias, np.cumsum(outputs)[:-1])
    branches = [
        graph.conv(x, kernels, bias, dilation=dilation, quant=quant, padding=layer.padding)
        for dilation, (kernels, bias) in enumerate(zip(layer.convs, biases, strict=True), start=1)
    ]
    ph, pw = layer.pool
    return graph.pool("MAX_POOL_2D", graph.concatenate(branches), (ph, ph), (pw, pw))


def _map_quant(layer: Layer, x: Tensor, quant: Quantization | None) -> Quantization | None:
    """quant, made coarser where a map is so nearly dead that XNNPACK would not load the model: the
    scale of input times weight must stay below 256 times the map's."""
    if quant is None or x.quant is None:
        return None
    peak = max(float(np.abs(kernels).max()) or 1.0 for kernels in layer.convs)
    product = max(x.quant[0] * peak / 127, float(np.abs(layer.bias).max()) / 2**30)
    return max(quant[0], product / 128), quant[1]


def _features(graph: Graph, x: Tensor, layer: Layer) -> Tensor:
    down, across = (pool_window(*sides) for sides in zip(x.shape[1:3], layer.grid, strict=True))
    pooled = graph.pool("AVERAGE_POOL_2D", graph.dequantize(x), down, across)
    if pooled.shape[0] > 1:
        pooled = _mean_of_batch(graph, pooled)
    features = graph.elementwise("SQRT", pooled) if layer.root else pooled
    if layer.mix is not None:
        features = _times(graph, features, layer.mix)
    if layer.waves:
        features = _waves(graph, features, layer.waves)
    return graph.reshape(features, (1, math.prod(features.shape)))


def _mean_of_batch(graph: Graph, x: Tensor) -> Tensor:
    """(1, h, w, C) of (B, h, w, C): over a sample and its mirror image."""
    batch, count = x.shape[0], math.prod(x.shape[1:])
    rows = graph.reshape(x, (1, batch, count, 1))
    mean = graph.pool("AVERAGE_POOL_2D", rows, (batch, batch), (1, 1))
    return graph.reshape(mean, (1, *x.shape[1:]))


def _waves(graph: Graph, x: Tensor, count: int) -> Tensor:
    """(1, 1, C, count) of a map (1, gh, gw, C)."""
    _, rows, columns, channels = x.shape
    cells = graph.transpose(graph.reshape(x, (1, 1, rows * columns, channels)), (0, 1, 3, 2))
    return _times(graph, cells, low_frequencies((rows, columns), count))


def _times(graph: Graph, x: Tensor, matrix: Floats) -> Tensor:
    """(B, h, w, M) of x (B, h, w, N) and a matrix (M, N)."""
    bias = np.zeros(len(matrix), np.float32)
    return graph.conv(x, matrix[:, :, None, None], bias, quant=None, activation="NONE")


def low_frequencies(grid: tuple[int, int], count: int) -> Floats:
    """(count, gh·gw): the lowest frequencies of the grid's two-dimensional cosine transform."""
    down, across = (_cosines(size) for size in grid)
    both = np.einsum("uy,vx->uvyx", down, across).reshape(len(down) * len(across), -1)
    u, v = np.indices(grid).reshape(2, -1)
    order = np.lexsort((u, (u / grid[0]) ** 2 + (v / grid[1]) ** 2))
    return np.ascontiguousarray(both[order[:count]], np.float32)


def _cosines(size: int) -> NDArray[np.float64]:
    """(size, size): the orthonormal discrete cosine transform."""
    u, x = np.indices((size, size))
    waves = np.cos(np.pi * (x + 0.5) * u / size) * np.sqrt(2 / size)
    waves[0] /= np.sqrt(2)
    return np.asarray(waves)
