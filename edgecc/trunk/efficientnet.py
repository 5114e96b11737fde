"""EfficientNet-Lite0 (Tan and Le, ICML 2019; the Lite variant of 2020) as a .tflite, read at one
depth or at several.

Batch norm is folded into the weights; float32, or int8 inside. The int8 ranges need no pictures:
they follow from each batch norm's mean and deviation (data-free quantization, Nagel et al., ICCV
2019). So the stem depends on weights, input shape and depths alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgecc.learn.geometry import pool_window
from edgecc.trunk.tflite_writer import Floats, Graph, Quantization, Tensor, int8_range
from edgecc.trunk.truncate import STEM

DEPTHS = range(1, 17)  # bottlenecks kept
TOGETHER = (5, 11, 16)  # depths that are read by default; docs/experiments.md
MEAN, STD = 127.0, 128.0  # of pixels in training
_STRIDES = {1: 2, 3: 2, 5: 2, 11: 2}  # by bottleneck, else 1
_EPS = 1e-3
_SPREAD = 6.0  # standard deviations of a channel that an int8 range holds

Weights = Mapping[str, Floats]


@dataclass(frozen=True)
class _Conv:
    """A convolution with its batch norm folded in, and the distribution of each output."""

    kernels: Floats  # (O, I, k, k), torch's order
    bias: Floats  # (O,)
    centre: Floats  # (O,)
    variance: Floats  # (O,)


@dataclass(frozen=True)
class _Stream:
    """The map between two bottlenecks, and the distribution of each channel."""

    x: Tensor
    centre: Floats
    variance: Floats


def write(
    weights: Weights, *, input_shape: tuple[int, int, int], depths: Sequence[int],
    int8: bool = True,
) -> bytes:
    """A model from float32 pictures (1, H, W, C), (pixels - MEAN) / STD, to the output (1, h, w, c)
    of a bottleneck, of any sign. weights: the PyTorch package's, by name.

    depths: of several bottlenecks, rising, the outputs are pooled to the size of the last, scaled
    to the same strength and concatenated. A grey picture enters as one of three equal colours.
    Raises ValueError for other channels than 1 and 3 and for a depth outside DEPTHS.
    """
    channels, height, width = input_shape
    if channels not in (1, 3) or not set(depths) <= set(DEPTHS):
        raise ValueError(f"{channels} channels, depths {list(depths)}: EfficientNet-Lite0 has 1 or "
                         f"3 channels and depths {DEPTHS[0]} to {DEPTHS[-1]}")
    graph = Graph()
    first = graph.tensor((1, height, width, channels))
    pixels = int8_range(-MEAN / STD, (255 - MEAN) / STD) if int8 else None
    stem = _folded(weights, "_conv_stem", "_bn0")
    if channels == 1:
        stem = replace(stem, kernels=stem.kernels.sum(axis=1, keepdims=True))
    x = _relu6(graph, graph.quantize(first, pixels), stem, int8, stride=2)
    stream = _Stream(x, stem.centre, stem.variance)
    streams = []
    for number in range(depths[-1]):
        stream = _bottleneck(graph, stream, weights, number, int8)
        if number + 1 in depths:
            streams.append(stream)
    last = _together(graph, streams) if len(streams) > 1 else graph.dequantize(stream.x)
    return graph.finish(first, graph.named(last, STEM))


def _together(graph: Graph, streams: Sequence[_Stream]) -> Tensor:
    """All maps at the size of the last, each scaled to a mean square of about one."""
    size, parts = streams[-1].x.shape[1:3], []
    for stream in streams:
        down, across = (pool_window(*sides)
                        for sides in zip(stream.x.shape[1:3], size, strict=True))
        pooled = graph.pool("AVERAGE_POOL_2D", graph.dequantize(stream.x), down, across)
        strength = np.sqrt(np.mean(stream.centre**2 + stream.variance))
        scales = np.full((len(stream.centre), 1, 1, 1), 1 / strength, np.float32)
        parts.append(graph.conv(pooled, scales, np.zeros_like(stream.centre), depthwise=True,
                                activation="NONE", quant=None))
    return graph.concatenate(parts)


def _bottleneck(
    graph: Graph, stream: _Stream, weights: Weights, number: int, int8: bool
) -> _Stream:
    """Expand (but in the first), convolve depthwise, project; add the input where shapes agree."""
    name, x = f"_blocks.{number}.", stream.x
    if number:
        x = _relu6(graph, x, _folded(weights, name + "_expand_conv", name + "_bn0"), int8)
    each = _folded(weights, name + "_depthwise_conv", name + "_bn1")
    x = _relu6(graph, x, each, int8, stride=_STRIDES.get(number, 1), depthwise=True)
    last = _folded(weights, name + "_project_conv", name + "_bn2")
    quant = _around(last.centre, last.variance) if int8 else None
    y = graph.conv(x, last.kernels, last.bias, activation="NONE", quant=quant)
    if y.shape != stream.x.shape:
        return _Stream(y, last.centre, last.variance)
    centre, variance = stream.centre + last.centre, stream.variance + last.variance
    quant = _around(centre, variance) if int8 else None
    return _Stream(graph.add(stream.x, y, quant=quant), centre, variance)


def _folded(weights: Weights, conv: str, norm: str) -> _Conv:
    parts = ("weight", "bias", "running_mean", "running_var")
    gamma, beta, mean, variance = (weights[f"{norm}.{part}"] for part in parts)
    factor = gamma / np.sqrt(variance + np.float32(_EPS))
    kernels: Floats = weights[f"{conv}.weight"] * factor[:, None, None, None]
    return _Conv(kernels, beta - mean * factor, beta, gamma**2)


def _relu6(
    graph: Graph, x: Tensor, conv: _Conv, int8: bool, *, stride: int = 1, depthwise: bool = False
) -> Tensor:
    quant = int8_range(0.0, min(6.0, _high(conv.centre, conv.variance))) if int8 else None
    return graph.conv(
        x, conv.kernels, conv.bias, stride=stride, depthwise=depthwise, activation="RELU6",
        quant=quant)


def _around(centre: Floats, variance: Floats) -> Quantization:
    return int8_range(-_high(-centre, variance), _high(centre, variance))


def _high(centre: Floats, variance: Floats) -> float:
    return float((centre + _SPREAD * np.sqrt(variance)).max())
