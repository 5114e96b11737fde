"""PoolConv against its equation; blocks trained with contextual pairs on real digits."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecc.lab import (
    DataGenConfig,
    PoolConv,
    generate_contextual_data,
    generate_data,
    generate_wrong_labels,
    one_hot_encode,
)

Digits = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


@pytest.mark.parametrize("side", [(8, 8), (9, 7), (32, 32)], ids=str)
@pytest.mark.parametrize(("m", "k"), [(1, 3), (2, 3), (3, 5), (2, 1)])
def test_a_block_is_pool_then_rms_then_convolution_then_relu(
    side: tuple[int, int], m: int, k: int
) -> None:
    torch.manual_seed(0)
    block = PoolConv(c_in=3, m=m, c_out=16, k=k).double()
    x = torch.randn(4, 3, *side, dtype=torch.float64)
    p = x[:, :, : side[0] // m * m, : side[1] // m * m]
    p = p.unflatten(3, (-1, m)).unflatten(2, (-1, m)).amax((3, 5))
    u = torch.stack([one / (one**2).mean() ** 0.5 for one in p])
    z = F.conv2d(u, block.conv.weight, block.conv.bias, padding=k // 2)
    assert block(x).shape == (4, 16, side[0] // m, side[1] // m)
    torch.testing.assert_close(block(x), z.clamp_min(0))


def test_arguments_by_position_are_c_in_m_c_out_k() -> None:
    block = PoolConv(3, 2, 16, 5)
    assert block.conv.weight.shape == (16, 3, 5, 5)
    assert block(torch.rand(1, 3, 9, 9)).shape == (1, 16, 4, 4)


def test_the_scale_of_a_sample_does_not_matter_and_a_black_one_gives_the_bias() -> None:
    block = PoolConv(c_in=1, m=2, c_out=4, k=3)
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(block(x * torch.tensor([0.01, 300.0]).view(2, 1, 1, 1)), block(x))
    black = block(torch.zeros(1, 1, 8, 8))
    assert block.conv.bias is not None
    torch.testing.assert_close(black[0, :, 1, 1], block.conv.bias.relu())


@pytest.mark.parametrize(("m", "k"), [(2, 4), (0, 3)])
def test_sizes_that_cannot_keep_the_promised_shape_are_refused(m: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"^k={k}|^m={m}"):
        PoolConv(c_in=3, m=m, c_out=16, k=k)


def test_a_batch_becomes_pairs_with_the_true_class_and_then_a_wrong_one(digits: Digits) -> None:
    images = torch.from_numpy(digits[0][:64] / np.float32(255))
    labels = torch.from_numpy(digits[1][:64])
    pairs, contexts = generate_data((images, labels), DataGenConfig(num_classes=10))
    assert pairs.shape == (128, 1, 8, 8)
    assert contexts.shape == (128, 10)
    assert contexts.dtype == torch.float32
    assert torch.equal(pairs, torch.cat([images, images]))
    assert torch.equal(contexts[:64], one_hot_encode(labels, 10))
    assert torch.equal(contexts.sum(1), torch.ones(128))
    assert (contexts[64:].argmax(1) != labels).all()
    assert generate_contextual_data(images, labels, 10)[1].shape == (128, 10)


def test_wrong_labels_are_every_other_class_equally_often() -> None:
    torch.manual_seed(0)
    wrong = generate_wrong_labels(torch.full((9000,), 3), 10)
    counts = torch.bincount(wrong, minlength=10)
    assert counts[3] == 0
    assert counts[counts > 0].tolist() == pytest.approx([1000] * 9, rel=0.15)


def test_the_default_configuration_is_the_papers_and_an_unknown_type_is_named() -> None:
    assert DataGenConfig() == DataGenConfig(
        dataset="cifar100", num_classes=100, data_gen_type="contextual", batch_size=64
    )
    batch = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"'mixup' is unknown.*contextual"):
        generate_data(batch, DataGenConfig(data_gen_type="mixup"))


def pair_trained(x: Tensor, y: Tensor, epochs: int) -> tuple[nn.Module, nn.Linear]:
    """Two blocks, the second on the detached output of the first; contexts of both together."""
    blocks = nn.ModuleList([PoolConv(1, 1, 16, 5), PoolConv(16, 2, 32, 3)])
    contexts = nn.ModuleList([nn.Linear(10, 16 * 64), nn.Linear(10, 32 * 16)])
    optimiser = torch.optim.Adam([*blocks.parameters(), *contexts.parameters()], lr=5e-3)
    target = torch.cat([torch.ones(50), torch.zeros(50)])
    for chosen in torch.cat([torch.randperm(len(x)) for _ in range(epochs)]).split(50):
        h, c = generate_data((x[chosen], y[chosen]), DataGenConfig(num_classes=10))
        for block, context in zip(blocks, contexts, strict=True):
            h = block(h.detach())
            goodness = (h.flatten(1) * context(c)).sum(1)
            loss = F.binary_cross_entropy_with_logits(goodness, target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    last = contexts[-1]
    assert isinstance(last, nn.Linear)
    return nn.Sequential(*blocks, nn.Flatten()), last


@torch.no_grad()
def accuracy(trained: tuple[nn.Module, nn.Linear], x: Tensor, y: Tensor) -> float:
    features, context = trained
    return float(((features(x) @ context(torch.eye(10)).T).argmax(1) == y).float().mean())


def test_blocks_learn_digits_from_pairs_alone_and_from_shuffled_labels_only_chance(
    digits: Digits,
) -> None:
    torch.manual_seed(0)
    x = torch.from_numpy(digits[0] / np.float32(255))
    y = torch.from_numpy(digits[1])
    assert accuracy(pair_trained(x[:1400], y[:1400], 5), x[1400:], y[1400:]) > 0.85
    shuffled = y[:1400][torch.randperm(1400)]
    assert accuracy(pair_trained(x[:1400], shuffled, 5), x[1400:], y[1400:]) < 0.2
