"""CoConv and CoResNet (Duta, Georgescu, Ionescu, "Contextual Convolutional Neural Networks",
arXiv 2108.07387): plain torch, and state_dicts that the authors' checkpoints fit.

The context here is spatial: a part of the output channels looks at a dilated neighbourhood, for
the parameters and multiplications of a plain 3×3 convolution.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgecc.learn.blocks import co_conv_splits

_EXPANSION = 4

NormLayer = Callable[[int], nn.Module]


class CoConv(nn.Module):
    """3×3 convolutions of dilation and padding d = 1..n side by side, no bias;
    (B, in_channels, H, W) → (B, out_channels, ⌈H/stride⌉, ⌈W/stride⌉).

    Args:
        levels: n, which decides the splits of the output channels: 4 levels ¼ each,
            3 levels ½ ¼ ¼, 2 levels ½ ½.
        splits: output channels per dilation instead, in order.

    Raises ValueError where the splits do not sum to out_channels or one is less than 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, levels: int = 4, *, stride: int = 1,
        splits: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        splits = co_conv_splits(out_channels, levels) if splits is None else splits
        if sum(splits) != out_channels or min(splits) < 1:
            raise ValueError(f"splits {tuple(splits)} must sum to {out_channels} output "
                             "channels, each at least 1")
        for d, width in enumerate(splits, 1):
            self.add_module(f"conv2_{d}", nn.Conv2d(
                in_channels, width, 3, stride=stride, padding=d, dilation=d, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], dim=1)


class Bottleneck(nn.Module):
    """conv 1×1, CoConv or conv 3×3 (with the stride), conv 1×1, and the shortcut.

    In the last bottleneck of a stage bn3 comes after the addition:
    ReLU(bn3(conv3 + shortcut)), elsewhere ReLU(bn3(conv3) + shortcut).
    """

    def __init__(
        self, c_in: int, width: int, *, levels: int, stride: int, last: bool, norm: NormLayer
    ) -> None:
        super().__init__()
        c_out = width * _EXPANSION
        self.last = last
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = (
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False) if levels == 1
            else CoConv(width, width, levels, stride=stride)
        )
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = norm(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride=stride, bias=False), norm(c_out))
            if stride > 1 or c_in != c_out else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.conv3(self.relu(self.bn2(self.conv2(out))))
        out = self.bn3(out + shortcut) if self.last else self.bn3(out) + shortcut
        activated: Tensor = self.relu(out)
        return activated


class CoResNet(nn.Module):
    """(B, 3, H, W) → (B, num_classes): a ResNet of bottlenecks whose 3×3 convolutions are CoConv
    of 4, 3 and 2 levels in the first three stages and plain in the fourth.

    Args:
        layers: bottlenecks per stage, four numbers.
        zero_init_residual: start each residual branch at zero, where bn3 is the branch's own.
        norm_layer: channels → normalisation, nn.BatchNorm2d if none is given.
        dropout_prob0: dropout before the last layer.
    """

    def __init__(
        self, layers: Sequence[int], num_classes: int = 1000, zero_init_residual: bool = False,
        norm_layer: NormLayer | None = None, dropout_prob0: float = 0.0,
    ) -> None:
        super().__init__()
        norm = nn.BatchNorm2d if norm_layer is None else norm_layer
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, layers[0], levels=4, stride=1, norm=norm)
        self.layer2 = _stage(256, 128, layers[1], levels=3, stride=2, norm=norm)
        self.layer3 = _stage(512, 256, layers[2], levels=2, stride=2, norm=norm)
        self.layer4 = _stage(1024, 512, layers[3], levels=1, stride=2, norm=norm)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout_prob0)
        self.fc = nn.Linear(2048, num_classes)
        _initialise(self, zero_init_residual)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        scores: Tensor = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return scores

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As torch's, for a training script's checkpoint too: the weights may be its entry
        'state_dict' and come from DistributedDataParallel ('module.' before each name)."""
        weights = state_dict.get("state_dict", state_dict)
        plain = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
        return super().load_state_dict(plain, strict=strict, assign=assign)


def _stage(
    c_in: int, width: int, depth: int, *, levels: int, stride: int, norm: NormLayer
) -> nn.Sequential:
    return nn.Sequential(*(
        Bottleneck(width * _EXPANSION if i else c_in, width, levels=levels,
                   stride=1 if i else stride, last=i == depth - 1, norm=norm)
        for i in range(depth)))


def _initialise(model: CoResNet, zero_init_residual: bool) -> None:
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual and isinstance(part, Bottleneck) and not part.last:
            nn.init.zeros_(part.bn3.weight)  # type: ignore[arg-type]


def coresnet50(pretrained: bool = False, **options: Any) -> CoResNet:
    """CoResNet-50, 25.6 million parameters; options are CoResNet's, such as num_classes."""
    return _coresnet([3, 4, 6, 3], pretrained, options)


def coresnet101(pretrained: bool = False, **options: Any) -> CoResNet:
    """CoResNet-101, 44.5 million parameters; options are CoResNet's, such as num_classes."""
    return _coresnet([3, 4, 23, 3], pretrained, options)


def coresnet152(pretrained: bool = False, **options: Any) -> CoResNet:
    """CoResNet-152, 60.2 million parameters; options are CoResNet's, such as num_classes."""
    return _coresnet([3, 8, 36, 3], pretrained, options)


def _coresnet(layers: list[int], pretrained: bool, options: dict[str, Any]) -> CoResNet:
    if pretrained:
        raise ValueError(
            "pretrained=True: edgecc downloads no weights; fetch the authors' checkpoint and "
            "model.load_state_dict(torch.load(path, weights_only=True))")
    return CoResNet(layers, **options)
