"""Blocks by themselves, on planes of every kind; and as production trains and freezes them."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgecc.learn.blocks import CoConv, Linear, PoolConv, co_conv_splits
from edgecc.learn.geometry import pool_window
from edgecc.learn.methods.contextual import Contextual, pair_error
from edgecc.trunk.compile import Layer, compile_trunk
from edgecc.trunk.interpreter import Interpreter

Digits = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

PLANES = [  # (height, width), kernel, pool
    ((8, 8), (3, 3), (1, 1)),
    ((8, 8), (3, 3), (2, 2)),
    ((7, 9), (3, 3), (2, 2)),
    ((5, 11), (5, 3), (1, 1)),
    ((9, 6), (3, 5), (2, 2)),
    ((3, 2), (3, 1), (1, 1)),
    ((1, 16), (1, 3), (1, 1)),
    ((1, 15), (1, 5), (1, 2)),
    ((1, 7), (1, 3), (1, 2)),
]


def contextual(
    size: tuple[int, int], kernel: tuple[int, int], pool: tuple[int, int], *, classes: int,
    c_in: int = 2, c_out: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64,
) -> Contextual:
    """A method whose context vectors are no longer zero, as after some steps."""
    generator = torch.Generator().manual_seed(seed)
    block = PoolConv(
        c_in, pool, c_out, kernel, norm="batch", generator=generator, dtype=dtype
    )
    method = Contextual(block, classes=classes, size=size)
    for tensor in method.context.own.values():
        tensor.normal_(generator=generator)
    return method


def draw(
    digits: Digits, size: tuple[int, int], classes: int, count: int = 12
) -> tuple[Tensor, Tensor]:
    """Two channels of real digits, cut or tiled to `size`, and their labels modulo `classes`."""
    images = torch.from_numpy(digits[0][: 2 * count].reshape(count, 2, -1) / 255.0)
    cells = size[0] * size[1]
    tiled = images.repeat(1, 1, -(-cells // 64))[:, :, -cells:]
    return tiled.reshape(count, 2, *size), torch.from_numpy(digits[1][:count]) % classes


def reference(method: Contextual, u: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Scores and gradients by autograd, from the equations alone."""
    with torch.enable_grad():
        weight, w, c = (
            t.detach().clone().requires_grad_()
            for t in (method.block.weights[0], *method.context.own.values())
        )
        kernel = weight.shape[2:]
        z = F.conv2d(u, weight, padding=(kernel[0] // 2, kernel[1] // 2))
        n = F.batch_norm(z, None, None, training=True, eps=1e-5)
        a = F.max_pool2d(n.relu(), method.block.pool)
        windows = [pool_window(side, min(side, 4)) for side in a.shape[2:]]
        p = F.avg_pool2d(a, [k for k, _ in windows], [s for _, s in windows]).flatten(1)
        q = F.batch_norm(p, None, None, training=True, eps=1e-5)
        scores = q @ w.T + c
        loss = F.softplus(-scores[range(len(y)), y])
        if scores.shape[1] > 1:
            others = scores.masked_fill(F.one_hot(y, scores.shape[1]).bool(), -torch.inf)
            loss = loss + F.softplus(others.max(1).values)
        return scores.detach(), list(torch.autograd.grad(loss.mean(), (weight, w, c)))


@pytest.mark.parametrize(
    ("plane", "classes"), list(itertools.product(PLANES, (1, 2, 10))), ids=str
)
def test_the_closed_form_is_the_gradient_of_the_loss(
    digits: Digits, plane: Any, classes: int
) -> None:
    method = contextual(*plane, classes=classes)
    u, y = draw(digits, plane[0], classes)
    scores, gradients = method.gradients(u, y)
    expected_scores, expected = reference(method, u, y)
    torch.testing.assert_close(scores, expected_scores)
    assert scores.shape == (12, classes)
    for actual, wanted in zip(gradients, expected, strict=True):
        assert wanted.abs().max() > 1e-6
        torch.testing.assert_close(actual, wanted, rtol=1e-7, atol=1e-10)


def test_a_step_returns_the_scores_from_before_it(digits: Digits) -> None:
    method = contextual((8, 8), (3, 3), (1, 1), classes=10)
    u, y = draw(digits, (8, 8), 10)
    before = method.gradients(u, y)[0]
    assert torch.equal(method.step(u, y, rate=1e-2), before)
    assert not torch.equal(method.gradients(u, y)[0], before)


def test_the_error_pulls_the_true_class_and_pushes_the_hardest_wrong_one() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, -1.0], [0.0, -2.0, -1.0, -3.0], [1.0, 2.0, 3.0, 4.0]])
    e = pair_error(scores, torch.tensor([0, 3, 1]))
    expected = torch.zeros(3, 4)
    expected[0, 0], expected[0, 2] = torch.sigmoid(scores[0, 0]) - 1, torch.sigmoid(scores[0, 2])
    expected[1, 3], expected[1, 0] = torch.sigmoid(scores[1, 3]) - 1, torch.sigmoid(scores[1, 0])
    expected[2, 1], expected[2, 3] = torch.sigmoid(scores[2, 1]) - 1, torch.sigmoid(scores[2, 3])
    assert torch.equal(e, expected)


def test_with_a_single_class_only_the_true_one_pulls() -> None:
    e = pair_error(torch.tensor([[0.0], [2.0]]), torch.tensor([0, 0]))
    torch.testing.assert_close(e, torch.tensor([[-0.5], [-1 / (1 + math.exp(2))]]))


@pytest.mark.parametrize("missing", ["weight", "w", "c", "adam.step", "adam.second.0"])
def test_every_part_of_the_state_matters_to_the_next_steps(digits: Digits, missing: str) -> None:
    u, y = draw(digits, (8, 8), 10)
    straight = contextual((8, 8), (3, 3), (2, 2), classes=10)
    for _ in range(3):
        straight.step(u, y, rate=1e-2)
    other = contextual((8, 8), (3, 3), (2, 2), classes=10, seed=99)
    saved = {name: tensor.clone() for name, tensor in straight.state().items()}
    other.restore(saved | {missing: other.state()[missing].clone()})
    for method in (straight, other):
        method.step(u, y, rate=1e-2)
    assert any(
        not torch.equal(tensor, other.state()[name]) for name, tensor in straight.state().items()
    )


# --- real digits ---


def train(u: Tensor, y: Tensor, steps: int = 300) -> Contextual:
    generator = torch.Generator().manual_seed(1)
    block = PoolConv(1, 1, 16, 3, norm="batch", generator=generator)
    method = Contextual(block, classes=10, size=(8, 8))
    for step in range(steps):
        chosen = torch.randperm(len(u), generator=generator)[:50]
        method.step(u[chosen], y[chosen], rate=5e-3 * (1 - step / steps))
    return method


def accuracy(method: Contextual, u: Tensor, y: Tensor) -> float:
    """Without labels: those given are all of one class."""
    scores, _ = method.gradients(u, torch.zeros_like(y))
    return float((scores.argmax(1) == y).float().mean())


def test_a_block_learns_digits_and_from_shuffled_labels_only_chance(digits: Digits) -> None:
    u = torch.from_numpy(digits[0][:1400] / np.float32(255))
    y = torch.from_numpy(digits[1][:1400])
    method = train(u[:1000], y[:1000])
    assert accuracy(method, u[:1000], y[:1000]) > 0.95
    assert accuracy(method, u[1000:], y[1000:]) > 0.85

    shuffled = y[:1000][torch.randperm(1000, generator=torch.Generator().manual_seed(2))]
    by_chance = train(u[:1000], shuffled)
    assert accuracy(by_chance, u[1000:], y[1000:]) < 0.2


# --- shapes and orders ---


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("size", "out"), [((32, 32), (16, 16)), ((7, 9), (3, 4))], ids=str)
def test_a_pool_conv_halves_the_map_rounding_down(size: Any, out: Any) -> None:
    block = PoolConv(c_in=3, m=2, c_out=16, k=3)
    assert block(torch.randn(4, 3, *size)).shape == (4, 16, *out)
    assert block.output_shape(size) == (16, *out)


def test_by_default_the_pool_comes_first_and_a_sample_s_scale_does_not_matter() -> None:
    block = PoolConv(2, 2, 4, 3, generator=draws())
    h = torch.randn(3, 2, 8, 8, generator=draws(1))
    pooled = F.max_pool2d(h, 2)
    u = pooled / pooled.square().mean((1, 2, 3), keepdim=True).sqrt()
    expected = F.conv2d(u, block.weights[0], block.bias, padding=1).relu()
    torch.testing.assert_close(block(h), expected)
    torch.testing.assert_close(block(h * 100), block(h))


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 3\): odd sides only"):
        PoolConv(1, 1, 4, (4, 3))


def test_a_batch_norm_does_not_serve_before_it_is_calibrated() -> None:
    block = PoolConv(1, 1, 4, 3, norm="batch", generator=draws())
    h = torch.randn(6, 1, 5, 5, generator=draws(1))
    with pytest.raises(RuntimeError, match="calibrate"):
        block(h)
    block.calibrate([h[:2], h[2:]])
    torch.testing.assert_close(block(h), block.forward(h).a)


@pytest.mark.parametrize(("levels", "splits"), [
    (1, (64,)), (2, (32, 32)), (3, (32, 16, 16)), (4, (16, 16, 16, 16))])
def test_a_co_conv_costs_what_a_plain_convolution_does(levels: int, splits: Any) -> None:
    block = CoConv(8, 1, 64, levels, norm="batch")
    assert co_conv_splits(64, levels) == splits
    assert [w.shape for w in block.weights] == [(width, 8, 3, 3) for width in splits]
    assert sum(w.numel() for w in block.parameters.values()) == 64 * 8 * 9


@pytest.mark.parametrize(("width", "levels"), [(6, 4), (6, 3), (7, 2)])
def test_a_width_that_its_splits_do_not_sum_to_is_refused(width: int, levels: int) -> None:
    with pytest.raises(ValueError, match=f"of {width} channels sum to"):
        CoConv(3, 1, width, levels)


@pytest.mark.parametrize("levels", [0, 5])
def test_levels_that_are_not_defined_are_refused(levels: int) -> None:
    with pytest.raises(ValueError, match="1 to 4"):
        co_conv_splits(64, levels)


@pytest.mark.parametrize(("size", "k"), [((7, 9), 3), ((1, 20), (1, 3))], ids=str)
def test_a_co_conv_s_levels_are_dilations_of_one_input(size: Any, k: Any) -> None:
    """A single one at the centre answers with the kernel's taps, d cells apart."""
    block = CoConv(1, 1, 4, 4, k=k, norm="batch", generator=draws())
    row, column = size[0] // 2, size[1] // 2
    u = torch.zeros(1, 1, *size)
    u[0, 0, row, column] = 1
    z = block.affine(u)
    assert z.shape == (1, 4, *size)
    for d, weight in enumerate(block.weights, start=1):
        taps = z[0, d - 1, row, [column - d, column, column + d]]
        assert torch.equal(taps, weight[0, 0, weight.shape[2] // 2].flip(0))


def test_a_dense_layer_flattens_and_gives_a_map_of_one_cell() -> None:
    block = Linear(12, 5, norm="none", slope=1.0, generator=draws())
    h = torch.randn(3, 3, 2, 2, generator=draws(1))
    expected = h.flatten(1) @ block.weights[0].T
    torch.testing.assert_close(block(h)[:, :, 0, 0], expected)
    torch.testing.assert_close(block(h.flatten(1))[:, :, 0, 0], expected)


# --- frozen ---


@pytest.mark.parametrize("plane", PLANES, ids=str)
def test_the_folded_convolution_normalises_by_the_population(digits: Digits, plane: Any) -> None:
    """With the batch as the whole population, training pass and frozen block are the same."""
    method = contextual(*plane, classes=10)
    block = method.block
    u, _ = draw(digits, plane[0], 10)
    z = block.affine(u)
    (weight,), bias = block.folded(z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0))
    padding = [side // 2 for side in plane[1]]
    frozen = F.max_pool2d(F.conv2d(u, weight, bias, padding=padding).relu(), plane[2])
    torch.testing.assert_close(frozen, block.forward(u).a)
    assert frozen.std() > 0.1


@pytest.mark.parametrize("plane", [PLANES[2], PLANES[7]], ids=str)
def test_the_compiled_block_is_the_trained_one(digits: Digits, plane: Any) -> None:
    size, kernel, pool = plane
    method = contextual(size, kernel, pool, classes=10, dtype=torch.float32)
    u = draw(digits, size, 10)[0].float()
    z = method.block.affine(u)
    (weight,), bias = method.block.folded(z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0))
    layer = Layer((weight.numpy(),), bias.numpy(), pool, (1, 1))
    run = Interpreter(compile_trunk([layer], input_shape=(2, *size), output="map")).run
    actual = [run(np.ascontiguousarray(one.permute(1, 2, 0).numpy())) for one in u]
    expected = method.block.forward(u).a.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(np.stack(actual), expected, atol=2e-5)


@pytest.mark.parametrize(("size", "k"), [((8, 8), 3), ((1, 16), (1, 3))], ids=str)
def test_the_compiled_co_conv_is_the_frozen_one(size: Any, k: Any) -> None:
    pool = (2 if size[0] > 1 else 1, 2)
    block = CoConv(2, pool, 8, 3, k=k, norm="batch", generator=draws())
    u = torch.randn(6, 2, *size, generator=draws(1))
    block.calibrate([u])
    z = block.affine(u)
    weights, bias = block.folded(z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0))
    layer = Layer(tuple(w.numpy() for w in weights), bias.numpy(), pool, (1, 1))
    run = Interpreter(compile_trunk([layer], input_shape=(2, *size), output="map")).run
    actual = [run(np.ascontiguousarray(one.permute(1, 2, 0).numpy())) for one in u]
    np.testing.assert_allclose(np.stack(actual), block(u).permute(0, 2, 3, 1).numpy(), atol=2e-5)


@pytest.mark.parametrize("grid", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [5, 7, 8, 14, 31])
def test_pool_windows_leave_no_value_out(size: int, grid: int) -> None:
    kernel, stride = pool_window(size, grid)
    seen = {i for cell in range(grid) for i in range(cell * stride, cell * stride + kernel)}
    assert seen == set(range(size))
