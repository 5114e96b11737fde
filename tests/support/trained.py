"""A small network for SpelaTrainer, and digits."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from edgecc.lab import SpelaConfig, SpelaTrainer

Digits = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
Batch = tuple[Tensor, Tensor]
Set = TensorDataset


class MLP(nn.Module):
    def __init__(self, inputs: int = 784, hidden: int = 1024) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, 10)


def loader(samples: Set, size: int = 64, *, shuffle: bool = True) -> DataLoader[Batch]:
    return DataLoader(samples, size, shuffle=shuffle)


@pytest.fixture(scope="module")
def tiny(digits: Digits) -> tuple[Set, Set]:
    """Digits (1, 8, 8): 1437 to train, 360 to test."""
    x, y = torch.from_numpy(digits[0] / np.float32(255)), torch.from_numpy(digits[1])
    return TensorDataset(x[:1437], y[:1437]), TensorDataset(x[1437:], y[1437:])


def mlp_trainer(inputs: int = 64, hidden: int = 128, **options: Any) -> SpelaTrainer:
    torch.manual_seed(0)
    model = MLP(inputs, hidden)
    cfg = SpelaConfig(**{"num_classes": 10, "seed": 0} | options)
    return SpelaTrainer(model, [model.fc1, model.fc2], [nn.ReLU(), nn.Identity()], cfg)
