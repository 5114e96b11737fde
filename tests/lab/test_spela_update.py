"""SpelaTrainer's update against the paper, and what each layer learns by it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.trained import MLP, Set, loader, mlp_trainer, tiny  # noqa: F401
from torch import Tensor, nn

from edgecc.lab import PoolConv, SpelaConfig, SpelaTrainer


def test_one_step_is_the_papers_closed_form(tiny: tuple[Set, Set]) -> None:
    """δ = -((v - cos·ĥ)/‖h‖) ⊙ σ'(z) / B, ΔW = -η δᵀx, for x = input / its norm."""
    trainer = mlp_trainer(lr=0.3, dtype=torch.float64)
    x, y = (tensor[:20] for tensor in tiny[0].tensors)
    weight, bias = (p.detach().clone() for p in trainer.layers[0].parameters())
    trainer.train_epoch([(x, y)])
    u = x.flatten(1).double()
    u /= u.norm(dim=1, keepdim=True)
    z = u @ weight.T + bias
    h = z.clamp_min(0)
    norm = h.norm(dim=1, keepdim=True)
    assert trainer.class_vectors[0] is not None
    v = trainer.class_vectors[0][y]
    cosine = (h / norm * v).sum(1, keepdim=True)
    delta = -(v - cosine * h / norm) / norm * (z > 0) / len(x)
    assert delta.abs().max() > 1e-4
    torch.testing.assert_close(trainer.layers[0].weight.data, weight - 0.3 * delta.T @ u)
    torch.testing.assert_close(trainer.layers[0].bias.data, bias - 0.3 * delta.sum(0))


def test_no_gradient_crosses_a_layer(tiny: tuple[Set, Set]) -> None:
    """A layer becomes the same, bit for bit, whatever is trained after it."""
    both = mlp_trainer(lr=0.5, momentum=0.9)
    torch.manual_seed(0)
    alone = MLP(64, 128).fc1
    cfg = SpelaConfig(num_classes=10, lr=0.5, momentum=0.9, seed=0)
    first = SpelaTrainer(nn.Sequential(), [alone], [nn.ReLU()], cfg)
    batches = list(loader(tiny[0], shuffle=False))[:5]
    both.fit(batches)
    first.fit(batches)
    assert torch.equal(both.layers[0].weight, alone.weight)
    assert not torch.equal(both.layers[1].weight, MLP(64, 128).fc2.weight)


def test_a_vector_is_as_long_as_its_own_layers_output_after_activation_and_pooling(
    tiny: tuple[Set, Set],
) -> None:
    torch.manual_seed(0)
    layers = [
        PoolConv(1, 1, 4, 3), nn.Conv2d(4, 6, 3, padding=1), nn.Dropout(0.1), nn.LazyLinear(20)
    ]
    pooled = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    activations: list[Callable[[Tensor], Tensor] | None] = [None, pooled, None, torch.tanh]
    cfg = SpelaConfig(num_classes=10, lr=0.1, momentum=0.9, embeddings_method="simplex", seed=1)
    trainer = SpelaTrainer(nn.Sequential(), layers, activations, cfg)
    losses = trainer.fit(loader(tiny[0]), epochs=2)
    assert losses[1] < losses[0]
    shapes = [v.shape for v in trainer.class_vectors if v is not None]
    assert shapes == [(10, 4 * 64), (10, 6 * 4), (10, 6 * 4), (10, 20)]
    assert trainer.optimizers[2] is None  # dropout has nothing to train


def test_frozen_layers_stay_and_parameters_of_an_activation_learn(tiny: tuple[Set, Set]) -> None:
    model, prelu = MLP(64, 32), nn.PReLU()
    model.fc2.requires_grad_(False)
    before = model.fc2.weight.clone()
    cfg = SpelaConfig(num_classes=10, lr=0.5)
    SpelaTrainer(model, [model.fc1, model.fc2], [prelu, None], cfg).fit(loader(tiny[0]))
    assert torch.equal(model.fc2.weight, before)
    assert prelu.weight.item() != 0.25


def test_the_clipped_gradient_bounds_the_step(tiny: tuple[Set, Set]) -> None:
    trainer = mlp_trainer(lr=1.0, grad_clip_norm=1e-3)
    before = [p.detach().clone() for p in trainer.layers[0].parameters()]
    trainer.fit([next(iter(loader(tiny[0])))])
    moved = [p - b for p, b in zip(trainer.layers[0].parameters(), before, strict=True)]
    step = torch.cat([m.flatten() for m in moved]).norm().item()
    assert step == pytest.approx(1e-3, rel=1e-3)


def test_samples_and_outputs_of_nothing_but_zeros_leave_everything_finite() -> None:
    trainer = mlp_trainer(lr=1.0)
    nn.init.constant_(trainer.layers[0].bias, -1.0)  # every unit dead
    x = torch.zeros(4, 1, 8, 8)
    loss = trainer.fit([(x, torch.arange(4))], epochs=3)
    assert np.isfinite(loss).all()
    assert all(p.isfinite().all() for p in trainer.model.parameters())


@pytest.mark.parametrize(
    "options",
    [{"amp": True}, {"dtype": torch.float64}, {"dtype": torch.bfloat16}, {"device": "cpu"},
     {"normalize_layer_inputs": False}],
    ids=str,
)
def test_other_precisions_and_settings_learn_as_well(
    tiny: tuple[Set, Set], options: dict[str, Any]
) -> None:
    trainer = mlp_trainer(lr=0.5, momentum=0.9, **options)
    trainer.fit(loader(tiny[0]), epochs=4)
    assert trainer.evaluate(loader(tiny[1])) > 0.7
    if "dtype" in options:
        assert trainer.model.fc1.weight.dtype == options["dtype"]
