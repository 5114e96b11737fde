"""SpelaTrainer as its users call it, on Fashion-MNIST and digits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.datasets import fashion
from support.trained import Set, loader, mlp_trainer, tiny  # noqa: F401
from torch import nn
from torch.utils.data import TensorDataset

from edgecc.lab import SpelaConfig, SpelaTrainer


def wrongly_labelled(data: Set) -> Set:
    x, y = data.tensors
    return TensorDataset(x, y[torch.randperm(len(y))])


@pytest.fixture(scope="module")
def clothes() -> tuple[Set, Set]:
    def load(split: str, count: int) -> Set:
        images, labels = fashion(split)
        x = torch.from_numpy(images[:count, None] / np.float32(255))
        return TensorDataset(x, torch.from_numpy(labels[:count]))

    return load("train", 6000), load("test", 2000)


# --- as the reference's README calls it ---


def test_an_mlp_learns_fashion_mnist_and_from_shuffled_labels_only_chance(
    clothes: tuple[Set, Set],
) -> None:
    train, test = clothes
    trainer = mlp_trainer(784, 1024, lr=1e-2)
    losses = trainer.fit(loader(train), epochs=4)
    assert losses == sorted(losses, reverse=True)
    assert trainer.evaluate(loader(test)) > 0.6

    by_chance = mlp_trainer(784, 1024, lr=1e-2)
    by_chance.fit(loader(wrongly_labelled(train)), epochs=2)
    assert by_chance.evaluate(loader(test)) < 0.2


@pytest.mark.parametrize("method", ["farthest", "random", "simplex"])
def test_with_momentum_it_learns_faster_and_every_layer_can_answer(
    clothes: tuple[Set, Set], method: str
) -> None:
    train, test = clothes
    trainer = mlp_trainer(784, 512, lr=0.1, momentum=0.9, embeddings_method=method)
    trainer.fit(loader(train), epochs=2)
    assert trainer.evaluate(loader(test)) > 0.72
    assert trainer.evaluate(loader(test), from_layer=0) > 0.72


def readme_cnn(grid: int) -> tuple[list[nn.Module], list[nn.Module | None]]:
    block1 = nn.Sequential(
        nn.Conv2d(3, 32, kernel_size=3, stride=1, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(grid),
        nn.Flatten(),
    )
    block2 = nn.Sequential(nn.Linear(32 * grid**2, 64), nn.ReLU(inplace=True))
    head = nn.Linear(64, 10)
    return [block1, block2, head], [None, None, nn.Identity()]


def three_channels(data: Set) -> Set:
    x, y = data.tensors
    return TensorDataset(x.repeat(1, 3, 1, 1), y)


def train_cnn(train: Set, *, grid: int, epochs: int, lr: float, momentum: float) -> SpelaTrainer:
    """At full rate, then two epochs at a twentieth, without a model around the layers."""
    torch.manual_seed(0)
    layers, activations = readme_cnn(grid)
    cfg = SpelaConfig(num_classes=10, lr=lr, momentum=momentum, seed=0)
    trainer = SpelaTrainer(nn.Sequential(), layers, activations, cfg)
    trainer.fit(loader(train, 32), epochs=epochs)
    for optimizer in trainer.optimizers:
        assert optimizer is not None
        optimizer.param_groups[0]["lr"] /= 20
    trainer.fit(loader(train, 32), epochs=2)
    return trainer


def test_a_cnn_with_global_pooling_learns_digits(tiny: tuple[Set, Set]) -> None:
    train, test = map(three_channels, tiny)
    trainer = train_cnn(train, grid=1, epochs=9, lr=2.0, momentum=0.0)
    shapes = [v.shape for v in trainer.class_vectors if v is not None]
    assert shapes == [(10, 32), (10, 64), (10, 10)]
    assert trainer.evaluate(loader(test)) > 0.45


def test_a_cnn_learns_digits_well_and_batch_size_never_changes_its_accuracy(
    tiny: tuple[Set, Set],
) -> None:
    train, test = map(three_channels, tiny)
    trainer = train_cnn(train, grid=4, epochs=4, lr=0.5, momentum=0.9)
    accuracy = trainer.evaluate(loader(test, 360))
    assert accuracy > 0.88
    for size in (1, 7, 100):
        assert trainer.evaluate(loader(test, size, shuffle=False)) == accuracy

    by_chance = train_cnn(wrongly_labelled(train), grid=4, epochs=1, lr=0.5, momentum=0.9)
    assert by_chance.evaluate(loader(test)) < 0.25


# --- what the trainer looks after ---


def test_layers_outside_the_model_are_switched_between_training_and_evaluation(
    tiny: tuple[Set, Set],
) -> None:
    layers: list[nn.Module] = [nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))]
    trainer = SpelaTrainer(nn.Sequential(), layers, None, SpelaConfig(num_classes=10))
    norm: Any = layers[0][1]
    trainer.evaluate(loader(tiny[1]))
    assert not layers[0].training
    assert norm.num_batches_tracked == 0
    seen: list[tuple[int, bool, float | None]] = []
    trainer.fit(
        loader(tiny[0], 100), epochs=2, val_loader=loader(tiny[1]),
        log_fn=lambda epoch, loss, accuracy: seen.append((epoch, loss < 0, accuracy)),
    )
    assert norm.num_batches_tracked == 2 * 15
    assert [(epoch, fell) for epoch, fell, _ in seen] == [(1, True), (2, True)]
    assert seen[1][2] == trainer.evaluate(loader(tiny[1]))
    trainer.train_epoch(loader(tiny[0], 100))
    assert layers[0].training


def test_a_saved_trainer_goes_on_bit_for_bit(tiny: tuple[Set, Set], tmp_path: Path) -> None:
    batches = list(loader(tiny[0], shuffle=False))[:8]
    straight = mlp_trainer(lr=0.5, momentum=0.9)
    straight.fit(batches)
    torch.save(straight.state_dict(), tmp_path / "spela.pt")
    resumed = mlp_trainer(lr=0.5, momentum=0.9, seed=99)
    resumed.load_state_dict(torch.load(tmp_path / "spela.pt", weights_only=True))
    assert resumed.evaluate(batches) == straight.evaluate(batches)
    for trainer in (straight, resumed):
        trainer.fit(batches)
    for p, q in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("part", ["layers", "class_vectors", "optimizers"])
def test_every_part_of_the_state_matters(tiny: tuple[Set, Set], part: str) -> None:
    batches = list(loader(tiny[0], shuffle=False))[:4]
    straight, other = mlp_trainer(lr=0.5, momentum=0.9), mlp_trainer(lr=0.5, momentum=0.9, seed=9)
    straight.fit(batches)
    other.fit(batches[::-1])
    other.load_state_dict(straight.state_dict() | {part: other.state_dict()[part]})
    for trainer in (straight, other):
        trainer.fit(batches)
    assert not torch.equal(straight.model.fc1.weight, other.model.fc1.weight)


def test_the_seed_alone_decides_the_class_vectors(tiny: tuple[Set, Set]) -> None:
    batch = [next(iter(loader(tiny[0], shuffle=False)))]
    first, again, other = mlp_trainer(), mlp_trainer(), mlp_trainer(seed=1)
    for trainer in (first, again, other):
        trainer.fit(batch)
    for one, same, different in zip(
        first.class_vectors, again.class_vectors, other.class_vectors, strict=True
    ):
        assert one is not None
        assert same is not None
        assert different is not None
        assert torch.equal(one, same)
        assert not torch.equal(one, different)


# --- mistakes ---


def test_lists_that_do_not_fit_are_named() -> None:
    cfg, fc = SpelaConfig(num_classes=10), nn.Linear(4, 4)
    with pytest.raises(ValueError, match="2 layers, but 1 activations"):
        SpelaTrainer(fc, [fc, fc], [None], cfg)
    with pytest.raises(ValueError, match="layers is empty"):
        SpelaTrainer(fc, [], [], cfg)
    with pytest.raises(ValueError, match="cfg is missing"):
        SpelaTrainer(fc, [fc], [None])
    with pytest.raises(ValueError, match="'widest' is none of farthest, random, simplex"):
        SpelaConfig(num_classes=10, embeddings_method="widest")
    with pytest.raises(ValueError, match="num_classes=0"):
        SpelaConfig(num_classes=0)


def test_labels_that_do_not_fit_are_named() -> None:
    trainer, x = mlp_trainer(), torch.rand(2, 1, 8, 8)
    for call in (trainer.fit, trainer.evaluate):
        with pytest.raises(ValueError, match=r"label 10 is outside 0\.\.9"):
            call([(x, torch.tensor([3, 10]))])
        with pytest.raises(ValueError, match=r"label -1 is outside"):
            call([(x, torch.tensor([3, -1]))])
        with pytest.raises(ValueError, match=r"labels \(2, 10\)"):
            call([(x, torch.zeros(2, 10, dtype=torch.int64))])
        with pytest.raises(ValueError, match="float32"):
            call([(x, torch.tensor([3.0, 1.0]))])
        with pytest.raises(ValueError, match="gave no batch"):
            call([])


def test_outputs_that_do_not_fit_are_named() -> None:
    y = torch.tensor([0, 1])
    conv = nn.Conv2d(1, 2, 3)
    strict = SpelaConfig(num_classes=10, auto_flatten=False)
    with pytest.raises(ValueError, match=r"layer 0 outputs \(2, 2, 6, 6\)"):
        SpelaTrainer(conv, [conv], None, strict).fit([(torch.rand(2, 1, 8, 8), y)])
    trainer = SpelaTrainer(conv, [conv], None, SpelaConfig(num_classes=10))
    trainer.fit([(torch.rand(2, 1, 8, 8), y)])
    with pytest.raises(ValueError, match=r"layer 0 outputs 98 values a sample, 72"):
        trainer.evaluate([(torch.rand(2, 1, 9, 9), y)])
    with pytest.raises(IndexError):
        trainer.predict_layer(torch.rand(2, 1, 8, 8), from_layer=1)
    with pytest.raises(ValueError, match="state has 10 classes"):
        SpelaTrainer(conv, [conv], None, SpelaConfig(num_classes=4)).load_state_dict(
            trainer.state_dict())
