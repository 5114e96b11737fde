"""What every method promises on every block, in one dimension and in two."""

from typing import Any

import numpy as np
import pytest
import torch
from support.learning import PLANES, autograd, make, pairs

from edgecc.learn.backends import named
from edgecc.learn.methods.base import Method
from edgecc.learn.network import Network

Names = tuple[str, str, str, Any]  # method, block, plane, backend
Arrays = tuple[Any, Any]


def each(names: list[Names]) -> Any:
    return pytest.mark.parametrize("names", names, ids=", ".join)


every = each(pairs("torch") + pairs("numpy"))
torchs = each(pairs("torch"))


def classes_of(names: Names) -> int:
    return 2 if names[0] == "goodness" else 3


def draw(names: Names, count: int = 12, *, seed: int = 1, dtype: str = "float32") -> Arrays:
    """Samples of separable classes: a pattern of each class, with noise."""
    patterns = torch.randn(3, 2, *PLANES[names[2]].size, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes_of(names), (count,), generator=generator)
    noise = torch.randn(count, *patterns.shape[1:], generator=generator)
    x = (patterns[y] + 0.3 * noise).numpy().astype(dtype)
    asarray = named(names[3]).namespace.asarray
    return asarray(x), asarray(y.numpy())


def trained(names: Names, steps: int, *, dtype: str = "float32") -> Method:
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


def copy(state: dict[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(array).copy() for name, array in state.items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name]) for name in one)


def finite(state: dict[str, Any]) -> bool:
    return all(np.isfinite(np.asarray(array)).all() for array in state.values())


@torchs
def test_the_closed_form_is_the_gradient_of_the_loss(names: Names) -> None:
    method = trained(names, 3, dtype="float64")
    u, y = draw(names, dtype="float64")
    expected_scores, expected = autograd(method, names, u, y)
    scores, gradients = method.gradients(u, y)
    torch.testing.assert_close(scores, expected_scores)
    assert max(float(wanted.abs().max()) for wanted in expected) > 1e-6
    for actual, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-7, atol=1e-10)


@each([names for names in pairs("numpy") if "random" not in names[0]])
def test_numpy_finds_what_torch_does(names: Names) -> None:
    """Draws apart: those of wrong labels are the generators' own."""
    ours, method = (make(*names[:3], backend, dtype="float64") for backend in ("numpy", "torch"))
    for step in range(3):
        method.step(*draw((*names[:3], "torch"), seed=step, dtype="float64"), rate=0.02)
    ours.restore(copy(method.state()) | {
        name: array for name, array in ours.state().items() if name == "generator"})
    scores, gradients = ours.gradients(*draw(names, dtype="float64"))
    expected_scores, expected = method.gradients(*draw((*names[:3], "torch"), dtype="float64"))
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-10, atol=1e-12)
    assert max(float(abs(wanted).max()) for wanted in expected) > 1e-6
    for actual, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-9, atol=1e-12)
        assert actual.shape == wanted.shape


@every
def test_scores_are_finite_one_row_a_sample_one_column_a_class(names: Names) -> None:
    method = make(*names, classes=classes_of(names))
    u, y = draw(names)
    scores = method.step(u, y, rate=0.01)
    assert scores.shape == (12, classes_of(names))
    assert np.isfinite(np.asarray(scores)).all()


@every
def test_it_learns_a_separable_stream_and_predicts_without_labels(names: Names) -> None:
    method = trained(names, 100)
    network = Network([method])
    network.calibrate(draw(names, 100, seed=1000)[0])
    u, y = draw(names, 100, seed=1001)
    assert np.mean(np.asarray(network.predict(u) == y)) > 0.85


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
        assert not np.array_equal(
            *(next(iter(states[block].values())) for states in (before, after)))


@every
def test_in_a_sweep_no_block_feels_the_one_above_it(names: Names) -> None:
    network, alone = stacked(names), make(*names, classes=classes_of(names))
    for step in range(3):
        u, y = draw(names, seed=step)
        network.sweep(u, y, rate=0.01)
        alone.step(u, y, rate=0.01)
    assert same(network.methods[0].state(), alone.state())


@torchs
def test_no_tensor_has_a_graph(names: Names) -> None:
    network = stacked(names)
    u, y = draw(names)
    u.requires_grad_()
    with torch.enable_grad():
        arrays = network.sweep(u, y, rate=0.01)
        network.calibrate(u)
        arrays += [network.scores(u), *network.outputs(u), *network.state().values()]
    assert not any(tensor.requires_grad for tensor in arrays)


@every
def test_a_step_never_touches_its_input_or_labels(names: Names) -> None:
    method, (u, y) = make(*names, classes=classes_of(names)), draw(names)
    before = copy({"u": u, "y": y})
    method.step(u, y, rate=0.01)
    assert same({"u": u, "y": y}, before)


@every
def test_a_restored_method_goes_on_and_serves_bit_for_bit(names: Names) -> None:
    straight = Network([trained(names, 3)])
    u, y = draw(names)
    straight.calibrate(u)
    resumed = Network([make(*names, classes=classes_of(names), seed=99)])
    resumed.restore(copy(straight.state()))
    assert np.array_equal(straight.scores(u), resumed.scores(u))
    for _ in range(2):
        assert np.array_equal(*(n.step(u, y, block=0, rate=0.01) for n in (straight, resumed)))
    assert same(straight.state(), resumed.state())


@every
def test_a_sample_is_served_alike_alone_and_among_others(names: Names) -> None:
    network = stacked(names)
    u, _ = draw(names)
    network.calibrate(u, chunk=5)
    together = network.scores(u)
    alone = np.concatenate([network.scores(u[i : i + 1]) for i in range(len(u))])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)


@every
def test_serving_is_training_where_the_batch_is_the_population(names: Names) -> None:
    method = trained(names, 3, dtype="float64")
    u, y = draw(names, dtype="float64")
    method.calibrate([u[:5], u[5:]])
    served = method.scores(method.block.frozen(u))
    np.testing.assert_allclose(served, method.step(u, y, rate=0.01), rtol=1e-7, atol=1e-7)


@every
def test_a_single_class_is_no_obstacle(names: Names) -> None:
    method, (u, y) = make(*names, classes=1), draw(names)
    for _ in range(2):
        scores = method.step(u, 0 * y, rate=0.01)
    assert finite(method.state() | {"scores": scores})


@every
def test_samples_of_zeros_are_no_obstacle(names: Names) -> None:
    method, (u, y) = make(*names, classes=classes_of(names)), draw(names)
    for _ in range(2):
        scores = method.step(0 * u, y, rate=0.01)
    assert finite(method.state() | {"scores": scores})
