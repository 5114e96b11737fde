"""What every method promises on every block, in one dimension and in two."""

import pytest
import torch
from learning import PLANES, autograd, make, pairs
from torch import Tensor

from edgecc.learn.methods.base import Method
from edgecc.learn.network import Network

Names = tuple[str, str, str]
every = pytest.mark.parametrize("names", pairs(), ids=", ".join)


def classes_of(names: Names) -> int:
    return 2 if names[0] == "goodness" else 3


def draw(
    names: Names, count: int = 12, *, seed: int = 1, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Samples of separable classes: a pattern of each class, with noise."""
    patterns = torch.randn(3, 2, *PLANES[names[2]].size, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes_of(names), (count,), generator=generator)
    noise = torch.randn(count, *patterns.shape[1:], generator=generator)
    return (patterns[y] + 0.3 * noise).to(dtype), y


def trained(names: Names, steps: int, *, dtype: torch.dtype = torch.float32) -> Method:
    method = make(*names, classes=classes_of(names), dtype=dtype)
    for step in range(steps):
        method.step(*draw(names, 20, seed=step, dtype=dtype), rate=0.02)
    return method


def stacked(names: Names) -> Network:
    """Two blocks; the second sees what the first gives."""
    first = make(*names, classes=classes_of(names))
    c_in, *size = first.block.output_shape(PLANES[names[2]].size)
    second = make(
        *names, classes=classes_of(names), c_in=c_in, size=(size[0], size[1]), seed=1)
    return Network([first, second])


def copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@every
def test_the_closed_form_is_the_gradient_of_the_loss(names: Names) -> None:
    method = trained(names, 3, dtype=torch.float64)
    u, y = draw(names, dtype=torch.float64)
    expected_scores, expected = autograd(method, names, u, y)
    scores, gradients = method.gradients(u, y)
    torch.testing.assert_close(scores, expected_scores)
    assert max(float(wanted.abs().max()) for wanted in expected) > 1e-6
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-10)


@every
def test_scores_are_finite_one_row_a_sample_one_column_a_class(names: Names) -> None:
    method = make(*names, classes=classes_of(names))
    u, y = draw(names)
    scores = method.step(u, y, rate=0.01)
    assert scores.shape == (12, classes_of(names))
    assert scores.isfinite().all()


@every
def test_it_learns_a_separable_stream_and_predicts_without_labels(names: Names) -> None:
    method = trained(names, 100)
    network = Network([method])
    network.calibrate(draw(names, 100, seed=1000)[0])
    u, y = draw(names, 100, seed=1001)
    assert (network.predict(u) == y).float().mean() > 0.85


@every
def test_only_the_block_that_learns_changes(names: Names) -> None:
    network = stacked(names)
    u, y = draw(names)
    network.calibrate(u)
    for block in (0, 1):
        before = [copy(method.state()) for method in network.methods]
        for _ in range(2):  # contexts that start at zero move first
            network.step(u, y, block=block, rate=0.01)
        after = [method.state() for method in network.methods]
        assert same(before[1 - block], after[1 - block])
        assert not torch.equal(
            *(next(iter(states[block].values())) for states in (before, after)))


@every
def test_in_a_sweep_no_block_feels_the_one_above_it(names: Names) -> None:
    network, alone = stacked(names), make(*names, classes=classes_of(names))
    for step in range(3):
        u, y = draw(names, seed=step)
        network.sweep(u, y, rate=0.01)
        alone.step(u, y, rate=0.01)
    assert same(network.methods[0].state(), alone.state())


@every
def test_no_tensor_has_a_graph(names: Names) -> None:
    network = stacked(names)
    u, y = draw(names)
    u.requires_grad_()
    with torch.enable_grad():
        found = network.sweep(u, y, rate=0.01)
        network.calibrate(u)
        found += [network.scores(u), *network.outputs(u), *network.state().values()]
    assert not any(tensor.requires_grad for tensor in found)


@every
def test_a_step_never_touches_its_input_or_labels(names: Names) -> None:
    method, (u, y) = make(*names, classes=classes_of(names)), draw(names)
    before = u.clone(), y.clone()
    method.step(u, y, rate=0.01)
    assert torch.equal(u, before[0])
    assert torch.equal(y, before[1])


@every
def test_a_restored_method_goes_on_and_serves_bit_for_bit(names: Names) -> None:
    straight = Network([trained(names, 3)])
    u, y = draw(names)
    straight.calibrate(u)
    resumed = Network([make(*names, classes=classes_of(names), seed=99)])
    resumed.restore(copy(straight.state()))
    assert torch.equal(straight.scores(u), resumed.scores(u))
    for _ in range(2):
        assert torch.equal(*(n.step(u, y, block=0, rate=0.01) for n in (straight, resumed)))
    assert same(straight.state(), resumed.state())


@every
def test_a_sample_is_served_alike_alone_and_among_others(names: Names) -> None:
    network = stacked(names)
    u, _ = draw(names)
    network.calibrate(u, chunk=5)
    together = network.scores(u)
    alone = torch.cat([network.scores(u[i : i + 1]) for i in range(len(u))])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)


@every
def test_serving_is_training_where_the_batch_is_the_population(names: Names) -> None:
    method = trained(names, 3, dtype=torch.float64)
    u, y = draw(names, dtype=torch.float64)
    method.calibrate([u[:5], u[5:]])
    served = method.scores(method.block.frozen(u))
    torch.testing.assert_close(served, method.step(u, y, rate=0.01))


@every
def test_a_single_class_is_no_obstacle(names: Names) -> None:
    method, (u, y) = make(*names, classes=1), draw(names)
    for _ in range(2):
        scores = method.step(u, torch.zeros_like(y), rate=0.01)
    assert scores.isfinite().all()
    assert all(t.isfinite().all() for t in method.state().values() if t.is_floating_point())


@every
def test_samples_of_zeros_are_no_obstacle(names: Names) -> None:
    method, (u, y) = make(*names, classes=classes_of(names)), draw(names)
    for _ in range(2):
        assert method.step(torch.zeros_like(u), y, rate=0.01).isfinite().all()
    assert all(t.isfinite().all() for t in method.state().values() if t.is_floating_point())
