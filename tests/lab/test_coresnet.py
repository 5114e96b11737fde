"""CoConv and CoResNet: the publication's counts, explicit convolutions, checkpoints, training."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecc.lab import CoConv, CoResNet, coresnet50, coresnet101, coresnet152

Digits = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

# Of the authors' released models at 1000 classes. The digest is SHA-256 of the state_dict's lines
# "key (shape)", sorted by key: an authors' checkpoint loads if and only if it agrees.
PUBLISHED = [
    (coresnet50, 25_557_032, 4_089_184_256, 343,
     "f6cbd9b1b5fe24aaebd97d6d60acebe2524b6987af187d3334a2f1bb1052af21"),
    (coresnet101, 44_549_160, 7_801_405_440, 666,
     "3f990ff976be02f04bbedad5d5c3ecce1c1bc67e32acaadb84151d5a1cedda2e"),
    (coresnet152, 60_192_808, 11_513_626_624, 993,
     "afb0700bb28ec56217566be2232a0308101874a172010c900743a17746d24beb"),
]


def multiply_adds(model: nn.Module, side: int) -> int:
    """Of all convolutions and dense layers for one picture; nothing is computed on 'meta'."""
    counts: list[int] = []

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        weight = layer.get_parameter("weight")
        counts.append(output.numel() * weight[0].numel())

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    model.eval()(torch.empty(1, 3, side, side, device="meta"))
    return sum(counts)


@pytest.mark.parametrize(
    ("make", "parameters", "macs", "keys", "digest"), PUBLISHED, ids=["50", "101", "152"]
)
def test_the_models_are_the_published_ones(
    make: Callable[..., CoResNet], parameters: int, macs: int, keys: int, digest: str
) -> None:
    with torch.device("meta"):
        model = make()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert multiply_adds(model, 224) == macs
    lines = sorted(f"{name} {tuple(t.shape)}" for name, t in model.state_dict().items())
    assert len(lines) == keys
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == digest


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("levels", "splits"), [(4, (16, 16, 16, 16)), (3, (32, 16, 16)), (2, (32, 32)), (1, (64,))]
)
def test_each_branch_is_a_convolution_of_its_own_dilation(
    levels: int, splits: tuple[int, ...], stride: int
) -> None:
    torch.manual_seed(0)
    conv = CoConv(8, 64, levels, stride=stride).double()
    weights = dict(conv.named_parameters())
    assert [(name, len(w)) for name, w in weights.items()] == [
        (f"conv2_{d}.weight", width) for d, width in enumerate(splits, 1)
    ]
    x = torch.randn(2, 8, 13, 12, dtype=torch.float64)
    expected = [
        F.conv2d(x, w, stride=stride, padding=d, dilation=d)
        for d, w in enumerate(weights.values(), 1)
    ]
    torch.testing.assert_close(conv(x), torch.cat(expected, 1))
    assert conv(x).shape == (2, 64, -(-13 // stride), -(-12 // stride))


def test_a_branch_of_dilation_d_sees_d_cells_away_and_none_between() -> None:
    conv = CoConv(1, 4, 4)
    spike = torch.zeros(1, 1, 11, 11)
    spike[0, 0, 5, 5] = 1
    for d, seen in enumerate(conv(spike)[0], 1):
        rows = seen.abs().sum(1).nonzero().flatten().tolist()
        assert rows == [5 - d, 5, 5 + d]


def test_own_splits_are_taken_and_wrong_ones_refused() -> None:
    assert CoConv(3, 10, splits=(5, 3, 2))(torch.rand(1, 3, 9, 9)).shape == (1, 10, 9, 9)
    for splits in [(5, 3), (11,), (10, 0), ()]:
        with pytest.raises(ValueError, match="sum to 10"):
            CoConv(3, 10, splits=splits)
    with pytest.raises(ValueError, match="sum to 8"):
        CoConv(3, 10, levels=4)
    with pytest.raises(ValueError, match="5 levels"):
        CoConv(3, 10, levels=5)


def small(**options: Any) -> CoResNet:
    torch.manual_seed(0)
    return CoResNet([2, 1, 2, 1], num_classes=10, **options)


def randomise_norms(model: nn.Module) -> None:
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight.data, part.bias.data, part.running_mean):
                assert tensor is not None
                tensor.normal_()


def test_only_in_the_last_bottleneck_of_a_stage_bn3_comes_after_the_addition() -> None:
    model = small().double().eval()
    randomise_norms(model)
    h = torch.randn(2, 64, 8, 8, dtype=torch.float64)
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            p: Any = block
            inner = F.relu(p.bn2(p.conv2(F.relu(p.bn1(p.conv1(h))))))
            shortcut = h if p.downsample is None else p.downsample(h)
            if p is stage[-1]:
                expected = F.relu(p.bn3(p.conv3(inner) + shortcut))
            else:
                expected = F.relu(p.bn3(p.conv3(inner)) + shortcut)
            h = block(h)
            torch.testing.assert_close(h, expected)
    assert h.shape == (2, 2048, 1, 1)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_of_training_scripts_load_as_they_are(prefix: str, wrapped: bool) -> None:
    source = small()
    randomise_norms(source)
    weights = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    checkpoint: dict[str, Any] = {"epoch": 90, "state_dict": weights} if wrapped else weights
    torch.manual_seed(1)
    model = CoResNet([2, 1, 2, 1], num_classes=10)
    assert str(model.load_state_dict(checkpoint)) == "<All keys matched successfully>"
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model.eval()(x), source.eval()(x))


def test_a_checkpoint_that_does_not_fit_is_refused() -> None:
    weights = small().state_dict()
    del weights["layer1.0.conv2.conv2_4.weight"]
    with pytest.raises(RuntimeError, match="conv2_4"):
        small().load_state_dict(weights)
    assert small().load_state_dict(weights, strict=False).missing_keys == [
        "layer1.0.conv2.conv2_4.weight"
    ]


def test_pretrained_says_that_nothing_is_downloaded() -> None:
    with pytest.raises(ValueError, match=r"downloads no weights.*load_state_dict"):
        coresnet50(pretrained=True)
    with torch.device("meta"):
        assert coresnet50(pretrained=False, num_classes=7).fc.out_features == 7


def test_the_residual_branches_can_start_at_zero_and_no_stage_is_silenced() -> None:
    model = small(zero_init_residual=True).eval()
    h = torch.rand(1, 64, 8, 8)
    first: Any = model.layer1[0]
    torch.testing.assert_close(first(h), F.relu(first.downsample(h)))
    assert model.layer1(h).abs().sum() > 0


def test_norm_layer_and_dropout_are_taken() -> None:
    model = small(norm_layer=lambda channels: nn.GroupNorm(8, channels), dropout_prob0=0.5)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    x = torch.rand(1, 3, 32, 32)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_coresnet50_learns_a_batch_of_digits(digits: Digits) -> None:
    torch.manual_seed(0)
    model = coresnet50(num_classes=10)
    x = F.interpolate(torch.from_numpy(digits[0][:8] / np.float32(255)), 32).repeat(1, 3, 1, 1)
    y = torch.from_numpy(digits[1][:8])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
