"""Features of a whole sensor window, beside its filters' map: how often, how much, how fast.

- proportions: of the time that dilated kernels over a few channels lie above thresholds. Kernels
  are MiniRocket's (Dempster, Schmidt & Webb, KDD 2021), nine weights of which three are 2 and the
  others -1; a few pass one channel on, or its change. Thresholds are quantiles of what the kernels
  give on the first windows; a step has a width, so that rounding does not decide.
- intervals: mean, deviation, largest and smallest value and mean change of each channel, in the
  whole window and in halves of halves of it (as in QUANT: Dempster, Schmidt & Webb, 2024).
- bands: logarithms of each channel's power in bands of frequency (Welch, 1967).
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from edgecc.learn.geometry import pool_window
from edgecc.trunk.interpreter import Interpreter
from edgecc.trunk.synthetic import synthetic_samples
from edgecc.trunk.tflite_writer import Floats, Graph, Tensor

THRESHOLDS = 4  # of each kernel
_TAPS = 9
_WEIGHTS = tuple(itertools.combinations(range(_TAPS), 3))  # which of the taps weigh 2
_STEP = 0.1  # deviations of a kernel's output from 0 to 1 and from 0 to -1
_TOGETHER = 9  # channels that a kernel sums at most
_MOMENTS = 5  # features of a channel in an interval
_MOST = 96  # features of intervals where channels are few enough; docs/experiments.md
_MOST_BANDS = 256  # features of bands
_BANDS = 12  # of each channel, at most
_FRAME = 128  # time steps in which frequencies are measured, at most
_FLOOR = 1e-3  # power below which bands do not differ; a channel's mean power is about 1
_CALIBRATION = 2**14  # outputs of a kernel that its thresholds are quantiles of, at most
_GOLDEN = (math.sqrt(5) + 1) / 2


@dataclass(frozen=True)
class WindowFeatures:
    """kernels: (K_i, C, 1, 9), entry i with dilation 2**i. thresholds: (THRESHOLDS, all K)."""

    kernels: tuple[Floats, ...]
    thresholds: Floats
    channels: int
    time: int

    @property
    def dim(self) -> int:
        intervals = self.channels * _MOMENTS * ((1 << _levels(self.channels, self.time)) - 1)
        bands = self.channels * _bands(self.channels, self.time)
        return int(self.thresholds.size) + intervals + bands

    @property
    def tensors(self) -> dict[str, Floats]:
        return {f"kernels.{i}": one for i, one in enumerate(self.kernels)} | {
            "thresholds": self.thresholds}

    def append(self, graph: Graph, x: Tensor) -> Tensor:
        """(1, dim) of a scaled window (1, 1, T, C)."""
        parts = [*self._proportions(graph, x), *self._intervals(graph, x), *self._powers(graph, x)]
        flat = [graph.reshape(part, (1, math.prod(part.shape))) for part in parts]
        return graph.concatenate(flat)

    def calibrated(self, windows: Iterable[Floats]) -> "WindowFeatures":
        """With the steps and thresholds that suit these scaled windows (1, T, C)."""
        graph = Graph()
        first = graph.tensor((1, 1, self.time, self.channels))
        run = Interpreter(graph.finish(first, self._outputs(graph, first))).run
        outputs = [run(window)[0] for window in windows]
        every = -(-len(outputs) * self.time // _CALIBRATION)
        z = np.concatenate(outputs)[::every]
        width = _STEP * z.std(axis=0)
        width[width == 0] = 1.0
        number = np.arange(1, THRESHOLDS * z.shape[1] + 1).reshape(z.shape[1], THRESHOLDS)
        thresholds = [
            np.quantile(one, share) for one, share in zip((z / width).T, number * _GOLDEN % 1,
                                                          strict=True)]
        widths = np.split(width, np.cumsum([len(one) for one in self.kernels])[:-1])
        return replace(
            self, thresholds=np.array(thresholds, np.float32).T.copy(),
            kernels=tuple(one / by[:, None, None, None]
                          for one, by in zip(self.kernels, widths, strict=True)))

    def _outputs(self, graph: Graph, x: Tensor) -> Tensor:
        """(1, 1, T, K) of the kernels."""
        return graph.concatenate([
            graph.conv(x, kernels, np.zeros(len(kernels), np.float32), quant=None,
                       activation="NONE", dilation=2**i)
            for i, kernels in enumerate(self.kernels) if len(kernels)])

    def _proportions(self, graph: Graph, x: Tensor) -> Iterable[Tensor]:
        z = self._outputs(graph, x)
        for row in self.thresholds:
            below = graph.constant(-row[None, None, None])
            steps = graph.add(z, below, quant=None, activation="RELU_N1_TO_1")
            yield graph.pool("AVERAGE_POOL_2D", steps, (1, 1), (self.time, self.time))

    def _intervals(self, graph: Graph, x: Tensor) -> Iterable[Tensor]:
        levels = _levels(self.channels, self.time)
        if not levels:
            return
        square, below = graph.elementwise("SQUARE", x), graph.elementwise("NEG", x)
        each = np.eye(self.channels, dtype=np.float32)[:, :, None, None]
        change = graph.elementwise("ABS", graph.conv(
            x, np.concatenate([-each, each], axis=3), np.zeros(self.channels, np.float32),
            quant=None, activation="NONE", padding="valid"))
        for level in range(levels):
            def pooled(of: Tensor, how: str, parts: int = 2**level) -> Tensor:
                return graph.pool(how, of, (1, 1), pool_window(of.shape[2], parts))

            mean = pooled(x, "AVERAGE_POOL_2D")
            spread = graph.subtract(
                pooled(square, "AVERAGE_POOL_2D"), graph.elementwise("SQUARE", mean))
            yield mean
            yield graph.elementwise("SQRT", graph.elementwise("RELU", spread))
            yield pooled(x, "MAX_POOL_2D")
            yield pooled(below, "MAX_POOL_2D")
            yield pooled(change, "AVERAGE_POOL_2D")

    def _powers(self, graph: Graph, x: Tensor) -> Iterable[Tensor]:
        bands = _bands(self.channels, self.time)
        if not bands:
            return
        frame = min(self.time, _FRAME)
        waves, shares = _waves(frame), _band_shares(frame, bands)
        each = graph.transpose(x, (3, 1, 2, 0))  # (C, 1, T, 1)
        spectra = graph.elementwise("SQUARE", graph.conv(
            each, waves, np.zeros(len(waves), np.float32), quant=None, activation="NONE",
            padding="valid", stride=max(1, frame // 2)))
        frames = spectra.shape[2]
        power = graph.pool("AVERAGE_POOL_2D", spectra, (1, 1), (frames, frames))
        floor = np.full(bands, _FLOOR, np.float32)
        yield graph.elementwise("LOG", graph.conv(
            power, shares[:, :, None, None], floor, quant=None, activation="NONE"))


def window_features(channels: int, time: int, *, kernels: int, seed: int) -> WindowFeatures:
    """Seeded kernels for windows (channels, time), calibrated on made-up ones.

    Raises ValueError for a window of one time step: it has no course.
    """
    if time < 2:
        raise ValueError("a window of 1 time step has no course: its features are its values")
    generator = np.random.default_rng(seed)
    dilations = max(1, int(math.log2(max(1.0, (time - 1) / (_TAPS - 1)))) + 1)
    plain = min(channels, kernels // 8)
    each = [_passing(channels, k) for k in range(plain)] + [
        _passing(channels, k, change=True) for k in range(plain)]
    groups: list[list[Floats]] = [each, *([] for _ in range(dilations - 1))]
    for number in range(kernels - len(each)):
        groups[number % dilations].append(_kernel(channels, generator))
    made = tuple(np.array(group, np.float32).reshape(-1, channels, 1, _TAPS) for group in groups)
    features = WindowFeatures(
        made, np.zeros((THRESHOLDS, kernels), np.float32), channels, time)
    return features.calibrated(synthetic_samples((channels, 1, time), 8, pixels=False))


def window_dim(channels: int, time: int, kernels: int) -> int:
    """Features that `window_features` has."""
    return WindowFeatures((), np.zeros((THRESHOLDS, kernels), np.float32), channels, time).dim


def _kernel(channels: int, generator: np.random.Generator) -> Floats:
    """(C, 1, 9): one of MiniRocket's 84, over a random few of the channels."""
    most = math.log2(min(channels, _TOGETHER) + 1)
    together = max(1, int(2 ** generator.uniform(0, most)))
    kernel = np.zeros((channels, 1, _TAPS), np.float32)
    weights = np.full(_TAPS, -1.0, np.float32)
    weights[list(_WEIGHTS[generator.integers(len(_WEIGHTS))])] = 2.0
    kernel[generator.choice(channels, together, replace=False)] = weights
    return kernel


def _passing(channels: int, channel: int, *, change: bool = False) -> Floats:
    """(C, 1, 9): passes one channel on, or its change from one time step to the next."""
    kernel = np.zeros((channels, 1, _TAPS), np.float32)
    kernel[channel, 0, _TAPS // 2] = 1.0
    if change:
        kernel[channel, 0, _TAPS // 2 - 1] = -1.0
    return kernel


def _levels(channels: int, time: int) -> int:
    """Levels of intervals: the whole, halves, quarters and so on."""
    fits = (n for n in range(1, 8) if 2 ** (n - 1) < time
            and channels * _MOMENTS * (2**n - 1) <= _MOST)
    return max(fits, default=1 if channels * _MOMENTS <= _MOST_BANDS else 0)


def _bands(channels: int, time: int) -> int:
    """Bands of each channel, at most one a frequency."""
    return min(_BANDS, _MOST_BANDS // channels, min(time, _FRAME) // 2)


def _waves(frame: int) -> Floats:
    """(2F, 1, 1, frame): cosines and sines of 1 to F periods under Hann's window, without mean."""
    time, number = np.arange(frame), np.arange(1, frame // 2 + 1)[:, None]
    phase = 2 * np.pi * number * time / frame
    waves = np.concatenate([np.cos(phase), np.sin(phase)]) * np.hanning(frame + 1)[:-1]
    waves -= waves.mean(axis=1, keepdims=True)
    return np.asarray(waves * np.sqrt(2) / frame, np.float32)[:, None, None]


def _band_shares(frame: int, bands: int) -> Floats:
    """(bands, 2F): sums the powers of each band, as wide as its frequency is high."""
    frequencies = frame // 2
    edges = np.geomspace(1, frequencies + 1, bands + 1)
    edges = np.maximum(np.floor(edges), np.arange(1, bands + 2))
    edges = np.minimum(edges, frequencies + 1 - np.arange(bands, -1, -1))
    number = np.arange(1, frequencies + 1)
    inside = (number >= edges[:-1, None]) & (number < edges[1:, None])
    return np.tile(inside.astype(np.float32), 2)
