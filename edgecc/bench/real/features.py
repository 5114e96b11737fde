"""What the baselines see of a row: each function takes rows, and gives (n, features) float32."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecc.config.loading import load
from edgecc.trunk.interpreter import Interpreter
from edgecc.trunk.model_stem import open_stem

_PIXELS = 32  # a side: larger pictures are made smaller
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_BANDS = 6  # of the spectrum, each twice as wide as the last
_STEM = "efficientnet-lite0:16"
_STEM_SIDES = (96, 160)  # for pictures below 96 pixels, and for larger ones

Floats = NDArray[np.float32]


def values(rows: NDArray[Any]) -> Floats:
    """All numbers of a row; of a picture at most 32 x 32 pixels."""
    if rows.dtype == np.uint8 and max(rows.shape[2:]) > _PIXELS:
        rows = np.stack([_resized(row, _PIXELS) for row in rows])
    return rows.reshape(len(rows), -1).astype(np.float32)


def statistics(rows: NDArray[Any]) -> Floats:
    """Of each channel of a window (n, channels, time): moments, quantiles, steps, spectrum."""
    step, mean = np.diff(rows, axis=2), rows.mean(axis=2, keepdims=True)
    std = rows.std(axis=2, keepdims=True)
    scaled = (rows - mean) / np.maximum(std, 1e-6)
    crossings = np.diff(np.sign(scaled), axis=2) != 0
    return np.concatenate([
        mean[..., 0], std[..., 0], rows.min(axis=2), rows.max(axis=2),
        *np.quantile(rows, _QUANTILES, axis=2), (scaled**3).mean(axis=2), (scaled**4).mean(axis=2),
        np.abs(rows).mean(axis=2), np.abs(step).mean(axis=2), step.std(axis=2),
        crossings.mean(axis=2), *_bands(rows - mean)], axis=1).astype(np.float32)


def catch22(rows: NDArray[Any]) -> Floats:
    """The 22 features of Lubba et al. 2019, of each channel; what is not defined is 0."""
    from pycatch22 import catch22_all

    features = [[catch22_all(channel.tolist())["values"] for channel in row] for row in rows]
    return np.nan_to_num(np.array(features, np.float32).reshape(len(rows), -1))


def pretrained(rows: NDArray[Any]) -> Floats:
    """The last map of EfficientNet-Lite0, averaged over the picture: the node's own stem."""
    side = _STEM_SIDES[rows.shape[2] >= _STEM_SIDES[0]]
    stem = open_stem(load(None, environ={}, overrides={
        "stem": _STEM, "input.shape": (3, side, side),
        "state_dir": str(Path("~/.cache/edgecc").expanduser())}))
    assert stem is not None
    run, features = Interpreter(stem.model.model).run, []
    for row in rows:
        picture = np.broadcast_to(_resized(row, side), (3, side, side)).transpose(1, 2, 0)
        scaled = (picture.astype(np.float32) - stem.mean) / stem.std
        features.append(run(scaled).mean(axis=(0, 1)))
    return np.array(features)


def _bands(rows: NDArray[Any]) -> list[NDArray[Any]]:
    """Log power of each octave below half the sampling rate."""
    power = np.abs(np.fft.rfft(rows, axis=2)) ** 2 / rows.shape[2]
    edges = [power.shape[2] >> octave for octave in range(_BANDS + 1)]
    return [np.log(power[:, :, low:high].sum(axis=2) + 1e-6)
            for high, low in pairwise(edges) if low < high]


def _resized(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(C, side, side)."""
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(channel).resize(
        (side, side), Image.Resampling.BILINEAR)) for channel in picture])
